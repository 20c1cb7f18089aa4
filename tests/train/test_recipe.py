"""The recipe: learning rate over a stage, and on what weight decay acts."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import nn

from dyncomp import build
from dyncomp.core import Stage
from dyncomp.train import Recipe
from dyncomp.train.recipe import FULL_AUGMENTATION, LEAST_AUGMENTATION


def stage(**options: float) -> Stage:
    return Stage("only", 1.0, lambda output, labels, progress: output.logits.sum(), **options)  # type: ignore[arg-type]


def rates(steps: int, rises: bool = True, **recipe: float) -> list[float]:
    """The learning rate at every step of a curve."""
    made = Recipe(epochs=1, **recipe)  # type: ignore[arg-type]
    return [made.learning_rate * made.factor(step, steps, rises) for step in range(steps)]


def test_rate_rises_then_falls_along_a_cosine() -> None:
    rise = [1 / 3, 2 / 3]
    fall = [0.5 * (1 + math.cos(math.pi * step / 18)) for step in range(18)]
    assert rates(20, learning_rate=0.4, warmup=0.1) == pytest.approx([0.4 * factor for factor in rise + fall])


def test_without_a_rise_the_rate_begins_at_its_highest() -> None:
    fall = [0.5 * (1 + math.cos(math.pi * step / 20)) for step in range(20)]
    assert rates(20, rises=False, learning_rate=0.4) == pytest.approx([0.4 * factor for factor in fall])


@pytest.mark.parametrize("factor", [0.01, 1.0, 3.0])
def test_stage_scales_the_rate(factor: float) -> None:
    optimizer = Recipe(epochs=1, learning_rate=0.4).optimizer(
        {"weight": nn.Parameter(torch.zeros(2, 2))}, stage(learning_rate=factor)
    )
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.4 * factor)


@pytest.mark.parametrize("steps", [1, 2, 3])
def test_the_shortest_stages_have_a_rate(steps: int) -> None:
    assert all(0 < rate <= 0.1 for rate in rates(steps, learning_rate=0.1))


def test_weight_decay_acts_on_kernels_and_matrices_only() -> None:
    net = build("condconv(classifier=True, begin=1)", "cifar_resnet8", classes=3, in_channels=1, image_size=8)
    named = dict(net.named_parameters())
    groups = Recipe(epochs=1, weight_decay=0.25).optimizer(named, stage()).param_groups
    decays = {id(p): group["weight_decay"] for group in groups for p in group["params"]}
    biases = [name for name in named if name.endswith("bias")]
    assert any(named[name].dim() > 1 for name in biases)  # the experts' biases (K, Y)
    norms = {f"{name}.weight" for name, m in net.named_modules() if isinstance(m, nn.BatchNorm2d)}
    assert norms
    for name, parameter in named.items():
        assert decays[id(parameter)] == (0.0 if name.endswith("bias") or name in norms else 0.25), name
    assert len(decays) == len(named)


def test_adam_takes_the_stages_own_rate_and_no_weight_decay() -> None:
    optimizer = Recipe(epochs=1).optimizer({"weight": nn.Parameter(torch.zeros(2, 2))}, stage(adam=1e-3))
    assert isinstance(optimizer, torch.optim.Adam)
    assert [(group["lr"], group["weight_decay"]) for group in optimizer.param_groups] == [(1e-3, 0)]


@pytest.mark.parametrize("share", [0.0001, 0.01, 0.5, 1.0, 10.0])
def test_the_tuned_augmentation_grows_with_the_budget(share: float) -> None:
    recipe = Recipe.tuned(share * FULL_AUGMENTATION)
    assert recipe.augment == pytest.approx(min(1.0, max(LEAST_AUGMENTATION, share)))
    assert recipe == replace(Recipe(epochs=share * FULL_AUGMENTATION), augment=recipe.augment)
