"""SkipNet as a method: which blocks have gates, and its losses against loops and hand counts."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from dyncomp import build, create_method
from dyncomp.core import Costs, Decision, Output, SiteCost, Trace, pretrained
from dyncomp.errors import CannotAttach, InvalidValue
from dyncomp.methods.skipnet import SkipNet
from dyncomp.ops import Gated

SMALL = {"classes": 5, "image_size": 16}
IMAGES, GATES, CLASSES = 6, 3, 4


@pytest.mark.parametrize(
    ("backbone", "gated"),
    [
        ("cifar_resnet8", [1, 2]),
        ("cifar_resnet14(shortcut='pad')", [1, 2, 3, 4, 5]),
        ("resnet18", list(range(1, 8))),
        ("mobilenet_v2", [2, 4, 5, 7, 8, 9, 11, 12, 14, 15]),  # those with a shortcut
    ],
)
@pytest.mark.parametrize("gate", ["rnn", "ff1", "ff2"])
def test_residual_blocks_but_the_first_have_gates(backbone: str, gated: list[int], gate: str) -> None:
    net = build(f"skipnet(gate={gate!r})", backbone, **SMALL)
    assert [name.removeprefix("model.") for name in net.sites] == [net.model.blocks[i] for i in gated]
    assert all(isinstance(op, Gated) for op in net.sites.values())
    shared = {id(op.gate.cell) for op in net.sites.values() if isinstance(op, Gated) and gate == "rnn"}
    assert len(shared) == (gate == "rnn")


def test_a_backbone_without_shortcuts_is_refused_with_the_reason() -> None:
    with pytest.raises(
        CannotAttach, match=r"^skipnet: mobilenet_v1\S* has no residual block .* such as cifar_resnet14"
    ):
        build("skipnet", "mobilenet_v1(width=0.25)", **SMALL)


@pytest.mark.parametrize(
    ("spec", "named"),
    [
        ("skipnet(target=1.5)", "target=1.5"),
        ("skipnet(target=0)", "target=0"),
        ("skipnet(gate='x')", "ff1"),
        ("skipnet(start=0.5)", "start=0.5"),
        ("skipnet(start=1.0)", "start=1.0"),
        ("skipnet(alpha=-1)", "alpha=-1"),
    ],
)
def test_wrong_values_are_said_in_one_line(spec: str, named: str) -> None:
    with pytest.raises(InvalidValue) as caught:
        create_method(spec)
    assert named in str(caught.value)
    assert "\n" not in str(caught.value)


def output(chance: Tensor, used: Tensor, logits: Tensor | None = None) -> Output:
    """A pass over a chain of gates whose bodies cost 10, 20, 30 MACs and whose gates cost 1, on 40 that always run."""
    logits = torch.zeros(len(chance), CLASSES) if logits is None else logits
    sites = {f"{t}": SiteCost(1, (10 * (t + 1),), None) for t in range(GATES)}
    through = used + (chance - chance.detach())
    decisions = {f"{t}": Decision(*(v[:, t : t + 1] for v in (through, used, chance))) for t in range(GATES)}
    return Output(logits, Trace(decisions, dict.fromkeys(sites), len(chance)), Costs(40, sites, (3, 8, 8), ()))


def drawn(seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    chance = torch.rand(IMAGES, GATES, generator=generator) * 0.9 + 0.05
    used = (torch.rand(IMAGES, GATES, generator=generator) < chance).float()
    return chance.requires_grad_(), used, torch.randn(IMAGES, CLASSES, generator=generator)


def reinforce(chance: Tensor, used: Tensor, errors: Tensor, alpha: float) -> Tensor:
    """d/dp of -sum over images and gates of (reward to come) * log P(decision), gate by gate."""
    gradient = torch.zeros_like(chance)
    baseline = sum(float(e) for e in errors) / len(errors)
    for i in range(IMAGES):
        for t in range(GATES):
            to_come = sum(alpha / GATES for later in range(t, GATES) if not used[i, later])
            to_come += -(float(errors[i]) - baseline)
            p = float(chance[i, t])
            gradient[i, t] = -to_come * (1 / p if used[i, t] else -1 / (1 - p))
    return gradient


@pytest.mark.parametrize("alpha", [0.0, 0.5])
@pytest.mark.parametrize("seed", range(3))
def test_the_policy_gradient_is_reinforce(seed: int, alpha: float) -> None:
    chance, used, logits = drawn(seed)
    labels = torch.arange(IMAGES) % CLASSES
    hybrid = SkipNet(target=None, alpha=alpha, rl_weight=0.25).stages()[-1]
    loss = hybrid.loss(output(chance, used, logits), labels, 0.5)
    (ours,) = torch.autograd.grad(loss, chance)
    errors = torch.stack([-row.log_softmax(0)[label] for row, label in zip(logits, labels, strict=True)])
    torch.testing.assert_close(ours, 0.25 * reinforce(chance.detach(), used, errors, alpha), rtol=1e-4, atol=1e-5)
    assert used.unique().tolist() == [0.0, 1.0]


def test_the_policy_gradient_lets_the_network_learn_from_its_errors_alone() -> None:
    chance, used, logits = drawn()
    logits.requires_grad_()
    labels = torch.arange(IMAGES) % CLASSES
    hybrid = SkipNet(target=None).stages()[-1]
    (ours,) = torch.autograd.grad(hybrid.loss(output(chance, used, logits), labels, 0.0), logits)
    one_hot = torch.eye(CLASSES)[labels]
    torch.testing.assert_close(ours, (logits.softmax(1) - one_hot).detach() / IMAGES)


@pytest.mark.parametrize(("progress", "aim"), [(0.0, 1.0), (0.25, 0.7), (0.5, 0.4), (1.0, 0.4)])
def test_the_budget_loss_by_hand(progress: float, aim: float) -> None:
    used = torch.tensor([[1.0, 0.0, 1.0], [0.0, 0.0, 0.0]])
    chance = torch.full((2, GATES), 0.5, requires_grad=True)
    supervised = SkipNet(target=0.4, budget_weight=5.0, balance=0.0).stages()[0]
    loss = supervised.loss(output(chance, used), torch.tensor([0, 1]), progress)
    share = ((40 + 3 + 10 + 30) / 100 + (40 + 3) / 100) / 2  # gates count, but not in the plain network's 100
    assert float(loss.detach()) == pytest.approx(math.log(CLASSES) + 5 * (share - aim) ** 2, rel=1e-5)
    (gradient,) = torch.autograd.grad(loss, chance)
    by_hand = torch.tensor([10.0, 20.0, 30.0]) / 100 / 2 * 5 * 2 * (share - aim)
    torch.testing.assert_close(gradient, by_hand.expand(2, -1))


def test_without_a_target_there_is_no_budget() -> None:
    chance, used, logits = drawn()
    labels = torch.arange(IMAGES) % CLASSES
    supervised = SkipNet(target=None).stages()[0]
    loss = supervised.loss(output(chance, used, logits), labels, 1.0)
    assert float(loss) == pytest.approx(float(torch.nn.functional.cross_entropy(logits, labels)))


@pytest.mark.parametrize(
    ("options", "share"), [({"target": None}, 0.135), ({"hybrid": 0.1}, 0.1), ({"target": None, "hybrid": 0.3}, 0.3)]
)
def test_the_second_stage_samples_and_the_first_does_not(options: dict[str, float | None], share: float) -> None:
    first, second = SkipNet(**options).stages()  # type: ignore[arg-type]
    assert (first.sampling, second.sampling) == (False, True)
    assert (first.share, second.share) == (pytest.approx(1 - share), share)
    assert (first.restarts, second.restarts) == (False, True)
    assert second.holds("model.stem.bn")


@pytest.mark.parametrize("options", [{}, {"target": 0.3}, {"target": None, "hybrid": 0.0}])
def test_with_a_target_there_is_no_second_stage(options: dict[str, float | None]) -> None:
    assert [(stage.name, stage.share) for stage in SkipNet(**options).stages()] == [("supervised", 1.0)]  # type: ignore[arg-type]


@pytest.mark.parametrize("pretraining", [0.0, 0.5])
def test_a_trained_backbone_is_begun_with_where_some_of_the_budget_is_for_it(pretraining: float) -> None:
    assert SkipNet(pretraining=pretraining).sources() == pretrained(pretraining)
    assert len(pretrained(pretraining)) == (pretraining > 0)


@pytest.mark.parametrize("gate", ["rnn", "ff1", "ff2"])
@torch.no_grad()
def test_evaluation_decides_hard_and_always_alike(gate: str) -> None:
    net = build(f"skipnet(gate={gate!r})", "cifar_resnet8", **SMALL)
    net.sampling = True
    x = torch.randn(16, 3, 16, 16)
    first, second = net.eval()(x), net(x)
    for site in first.trace:
        wanted = (first.trace[site].probability > 0.5).float()
        assert torch.equal(first.trace[site].used, wanted)
        assert torch.equal(second.trace[site].used, wanted)
    assert torch.equal(first.logits, second.logits)
