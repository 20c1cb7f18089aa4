"""The conformance suite catches what it is for: each method here is wrong in one way, and the right check says so."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dyncomp.conformance import CHECKS, Case, NotConforming, failures
from dyncomp.core import Backbone, Decision, Method, Output, ResidualBlock, Stage
from dyncomp.ops import Gated
from dyncomp.ops.rows import put, take
from dyncomp.registry import METHODS

BACKBONE = "cifar_resnet8"


class Gate(nn.Module):
    """Opens for about half of the images."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.linear = nn.Linear(channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        pooled = x.mean(dim=(2, 3))
        chance: Tensor = self.linear(pooled - pooled.detach().mean(dim=1, keepdim=True)).sigmoid()
        return chance


class NoisyGate(Gate):
    """Noise stays on in evaluation, as in some published code."""

    def forward(self, x: Tensor) -> Tensor:
        return (super().forward(x) + torch.randn(len(x), 1).to(x)).clamp(0.01, 0.99)


class RankingGate(Gate):
    """Opens for the better half of the batch, so an image's fate depends on its company."""

    def forward(self, x: Tensor) -> Tensor:
        chance = super().forward(x)
        return (0.5 + chance - chance.median()).clamp(0.01, 0.99)


class CountingGate(Gate):
    """Remembers how often it was asked."""

    asked = 0

    def forward(self, x: Tensor) -> Tensor:
        self.asked += 1
        return super().forward(x) * 0 + 0.25 + 0.5 * (self.asked % 2)


class UntaughtGate(Gate):
    """Its decision is cut off from its parameters."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).detach()


class SpectralGate(Gate):
    """Runs an operator whose cost nobody knows."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x + torch.fft.fft2(x).abs() * 1e-3)


class MeddlingGate(Gate):
    """Changes the features that it should only look at."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.mul_(1.5) if not x.requires_grad else x * 1.5)


class ForgetsShortcut(Gated):
    """The fast form gives zeros to those who skip."""

    def sparse(self, x: Tensor, decision: Decision) -> Tensor:
        return super().sparse(x, decision) * decision.used[:, :, None, None]


class RunsForAll(Gated):
    """The fast form is the dense one: nothing is skipped."""

    def sparse(self, x: Tensor, decision: Decision) -> Tensor:
        return self.dense(x, decision)


class WorksInSecret(Gated):
    """Those who skip pay for a convolution that no cost knows of."""

    def sparse(self, x: Tensor, decision: Decision) -> Tensor:
        y = super().sparse(x, decision)
        rows = (decision.used[:, 0] < 0.5).nonzero().squeeze(1)
        if len(rows) == 0:
            return y
        extra = F.conv2d(take(y, rows), torch.ones(y.shape[1], 1, 1, 1).to(y), groups=y.shape[1])
        return put(y, rows, extra)


class Fickle(Gated):
    """Runs the body twice at every other call."""

    called = 0

    def sparse(self, x: Tensor, decision: Decision) -> Tensor:
        self.called += 1
        if self.called % 2:
            self.unit(0, self.block.body, x)
        return super().sparse(x, decision)


class Obstinate(Gated):
    """Pays no heed to what it is told."""

    def forced(self, used: Tensor, weight: Tensor) -> Decision:
        return super().forced(torch.ones_like(used), weight)


class Halved(Gated):
    """With everything on it is not the block, but half of it."""

    def dense(self, x: Tensor, decision: Decision) -> Tensor:
        return super().dense(x, decision) / 2

    def sparse(self, x: Tensor, decision: Decision) -> Tensor:
        return super().sparse(x, decision) / 2


class Unsaved(Gated):
    """Part of what it has learnt is in no checkpoint."""

    def __init__(self, block: ResidualBlock, gate: nn.Module) -> None:
        super().__init__(block, gate)
        self.register_buffer("seen", torch.zeros(()), persistent=False)

    def dense(self, x: Tensor, decision: Decision) -> Tensor:
        if self.training:
            self.seen = torch.full_like(self.seen, 0.5)
        return super().dense(x, decision) - self.seen

    def sparse(self, x: Tensor, decision: Decision) -> Tensor:
        return super().sparse(x, decision) - self.seen


class Undecided(Gated):
    """Half used."""

    def decide(self, x: Tensor) -> Decision:
        return super().decide(x).map(lambda t: t * 0.5 + 0.25)


class LooksAtLayout(Gated):
    """Treats channels-last features as if they lay the other way."""

    def sparse(self, x: Tensor, decision: Decision) -> Tensor:
        y = super().sparse(x, decision)
        return y if x.is_contiguous() else y.flip(1)


class ReadsStatistics(Gated):
    """Takes a number out of a normalisation that it does not run there."""

    def __init__(self, block: ResidualBlock, gate: nn.Module) -> None:
        super().__init__(block, gate)
        self.norms = [layer for layer in block.modules() if isinstance(layer, nn.BatchNorm2d)]

    def dense(self, x: Tensor, decision: Decision) -> Tensor:
        return super().dense(x, decision) + self._mean()

    def sparse(self, x: Tensor, decision: Decision) -> Tensor:
        return super().sparse(x, decision) + self._mean()

    def _mean(self) -> Tensor:
        mean = self.norms[0].running_mean
        assert mean is not None
        return mean.mean()


class HoldsLayers(Gated):
    """Its sparse form runs the body's layers from a list of its own, and by their weights."""

    def __init__(self, block: ResidualBlock, gate: nn.Module) -> None:
        super().__init__(block, gate)
        self.layers = list(block.body.children())

    def sparse(self, x: Tensor, decision: Decision) -> Tensor:
        if not bool(decision.used.all()):
            return super().sparse(x, decision)
        return self.block.join(self.unit(0, self._body, x), self.block.shortcut(x))

    def _body(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            if isinstance(layer, nn.Conv2d):
                x = F.conv2d(x, layer.weight, None, layer.stride, layer.padding)
            else:
                x = layer(x)
        return x


def cross_entropy(output: Output, labels: Tensor, progress: float) -> Tensor:
    return F.cross_entropy(output.logits, labels)


@dataclass(frozen=True)
class Planted(Method):
    """Gates behind the first block, of the given kinds, trained in the given stages."""

    op: type[Gated] = Gated
    gate: type[Gate] = Gate
    parts: tuple[Stage, ...] = field(default=(Stage("train", 1.0, cross_entropy),))
    after: Callable[[Backbone], nn.Module] = lambda net: net
    all_on_is_plain: ClassVar[bool] = True

    def __post_init__(self) -> None:
        """The fields are classes, not options."""

    def build(self, new: Callable[[], Backbone]) -> nn.Module:
        backbone = new()
        for name in backbone.blocks[1:]:
            block = backbone.part(name)
            assert isinstance(block, ResidualBlock)
            convolution = next(m for m in block.modules() if isinstance(m, nn.Conv2d))
            backbone.swap(name, self.op(block, self.gate(convolution.in_channels)))
        return self.after(backbone)

    def stages(self) -> Sequence[Stage]:
        return self.parts


def wasteful(net: Backbone) -> nn.Module:
    class Wasteful(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = net

        def forward(self, x: Tensor) -> Tensor:
            logits: Tensor = self.net(x)
            x.zero_()
            return logits

    return Wasteful()


def constant(net: Backbone) -> nn.Module:
    class Constant(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = net

        def forward(self, x: Tensor) -> Tensor:
            return self.net(x) * 0

    return Constant()


def stage(share: float = 1.0, *learns: str) -> Stage:
    return Stage("train", share, cross_entropy, learns or ("*",))


FAULTS = [
    ("evaluation_is_deterministic", Planted(gate=NoisyGate), "two evaluations"),
    ("evaluation_is_deterministic", Planted(gate=CountingGate), "two evaluations|no trace"),
    ("evaluation_is_deterministic", Planted(after=wasteful), "changed in place"),
    ("all_on_equals_plain", Planted(gate=MeddlingGate), "not the plain backbone"),
    ("costs_add_up", Planted(op=Fickle), "measurements of the costs differ"),
    ("batch_equals_images", Planted(gate=RankingGate), "alone differs"),
    ("dense_equals_sparse", Planted(op=ForgetsShortcut), "dense and sparse logits differ"),
    ("price_equals_executed", Planted(op=RunsForAll), "executed"),
    ("price_equals_executed", Planted(op=WorksInSecret), "executed"),
    ("price_equals_executed", Planted(gate=SpectralGate), "without a known cost ran: aten._fft"),
    ("all_on_equals_plain", Planted(op=Halved), "not the plain backbone"),
    ("sites_have_names_and_shapes", Planted(op=Undecided), "neither 0 nor 1"),
    ("survives_save_copy_and_layout", Planted(op=Unsaved), "saved and loaded"),
    ("survives_save_copy_and_layout", Planted(op=LooksAtLayout), "channels-last"),
    ("deployment_changes_nothing", Planted(op=ReadsStatistics), "answers otherwise .*call the modules"),
    ("deployment_changes_nothing", Planted(op=HoldsLayers), "answers otherwise .*call the modules"),
    ("stages_train_what_they_claim", Planted(gate=UntaughtGate), "gets no finite gradient"),
    (
        "stages_train_what_they_claim",
        Planted(parts=(stage(1.0, "*.gates.*"),)),
        r"no parameter is called \*\.gates\.\*",
    ),
    ("stages_train_what_they_claim", Planted(parts=(stage(0.5), stage(0.4))), "add up to 0.9"),
    ("stages_train_what_they_claim", Planted(after=constant), "is zero throughout"),
    ("answers_depend_on_images_and_decisions", Planted(after=constant), "the same logits"),
    ("answers_depend_on_images_and_decisions", Planted(op=Obstinate), "ignores the wish"),
]


def pretend_registered(method: Planted, monkeypatch: pytest.MonkeyPatch) -> None:
    create = METHODS.create
    monkeypatch.setattr("dyncomp.conformance.checks.spec_of", lambda _: "planted")
    monkeypatch.setattr(METHODS, "create", lambda spec: method if spec == "planted" else create(spec))


@pytest.mark.parametrize(("check", "method", "says"), FAULTS)
def test_a_planted_fault_is_caught_by_the_check_that_is_for_it(
    check: str, method: Planted, says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pretend_registered(method, monkeypatch)
    with pytest.raises(NotConforming, match=says) as caught:
        CHECKS[check](Case(method, BACKBONE))
    assert "\n" not in str(caught.value)


def test_without_a_fault_nothing_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    method = Planted()
    pretend_registered(method, monkeypatch)
    assert failures(Case(method, BACKBONE)) == {}


def test_every_check_has_a_fault_planted_for_it() -> None:
    assert {check for check, _, _ in FAULTS} == set(CHECKS)
