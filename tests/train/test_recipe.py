"""The recipe: learning rate over a stage, and on what weight decay acts."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from dyncomp import build
from dyncomp.core import Stage
from dyncomp.train import Recipe


def stage(**options: float) -> Stage:
    return Stage("only", 1.0, lambda output, labels, progress: output.logits.sum(), **options)  # type: ignore[arg-type]


def rates(steps: int, factor: float = 1.0, **recipe: float) -> list[float]:
    made = Recipe(epochs=1, **recipe)  # type: ignore[arg-type]
    parameter = nn.Parameter(torch.zeros(2, 2))
    optimizer = made.optimizer({"weight": parameter}, stage(learning_rate=factor))
    schedule = made.schedule(optimizer, steps, warmup=True)
    seen = []
    for _ in range(steps):
        seen.append(optimizer.param_groups[0]["lr"])
        parameter.grad = torch.zeros_like(parameter)
        optimizer.step()
        schedule.step()
    return seen


def test_rate_rises_then_falls_along_a_cosine() -> None:
    rise = [1 / 3, 2 / 3]
    fall = [0.5 * (1 + math.cos(math.pi * step / 18)) for step in range(18)]
    assert rates(20, learning_rate=0.4, warmup=0.1) == pytest.approx([0.4 * factor for factor in rise + fall])


def test_stage_scales_the_rate() -> None:
    assert rates(10, 0.01, learning_rate=0.4) == pytest.approx([0.01 * rate for rate in rates(10, learning_rate=0.4)])


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


def test_without_warmup_the_rate_begins_at_its_highest() -> None:
    optimizer = Recipe(epochs=1, learning_rate=0.4).optimizer({"weight": nn.Parameter(torch.zeros(2, 2))}, stage())
    Recipe(epochs=1).schedule(optimizer, 10, warmup=False)
    assert optimizer.param_groups[0]["lr"] == 0.4


def test_adam_takes_the_stages_own_rate_and_no_weight_decay() -> None:
    optimizer = Recipe(epochs=1).optimizer({"weight": nn.Parameter(torch.zeros(2, 2))}, stage(adam=1e-3))
    assert isinstance(optimizer, torch.optim.Adam)
    assert [(group["lr"], group["weight_decay"]) for group in optimizer.param_groups] == [(1e-3, 0)]
