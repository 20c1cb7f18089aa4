"""Runs of blocks in one go: the same as the blocks one by one, whoever asks, and as long as nobody asks for more."""

from __future__ import annotations

import copy
import io
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from dyncomp import build
from dyncomp.core import Net, deployed, native
from dyncomp.core.counter import MacCounter
from dyncomp.core.direct import left_out
from dyncomp.core.gates import FeedForwardGate, Gate, Products
from dyncomp.core.runs import ReadyBlocks, Run
from dyncomp.core.tuner import in_turn

pytestmark = pytest.mark.skipif(native.this_machine() is None, reason="no machine code for this machine")

SPECS = {
    "static": ("static", "cifar_resnet14(width=0.5)"),
    "zeros in the shortcut": ("static", "cifar_resnet14(width=0.5, shortcut='pad')"),
    "bottlenecks": ("convnet_aig", "resnet50"),
    "form residual": ("convnet_aig", "cifar_resnet14(width=0.5)"),
    "form output, recurrent": ("skipnet", "cifar_resnet14(width=0.5)"),
    "mixed": ("condconv(begin=1, experts=3)", "cifar_resnet14(width=0.5)"),
    "half mixed, by softmax": ("condconv(routing='softmax', temperature=2.0)", "cifar_resnet14(width=0.5)"),
    "planned": ("blockdrop(width=0.5)", "cifar_resnet14(width=0.5)"),
}


def features(images: int, seed: int = 0, side: int = 17) -> Tensor:
    draw = torch.Generator().manual_seed(seed)
    x = torch.randn(images, 3, side, side, generator=draw, dtype=torch.float64)
    return x.contiguous(memory_format=torch.channels_last)


def made(name: str) -> Net:
    """Ready for use; its gates, were they trained, might decide so."""
    spec, backbone = SPECS[name]
    net = build(spec, backbone, classes=5, in_channels=3, image_size=17, seed=0).double().eval()
    draw = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for module in net.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.copy_(torch.randn(module.num_features, generator=draw, dtype=torch.float64) * 0.1)
            last = getattr(module, "head", None)
            if isinstance(last, (nn.Conv2d, nn.Linear)) and not isinstance(module, FeedForwardGate):
                last.weight.normal_(std=3.0, generator=draw)
                last.bias.zero_()
    return deployed(net)


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """For each run that was asked in this test, whether it ran in one go."""
    seen, call = list[bool](), Run.__call__

    def noted(run: Run, x: Tensor) -> Tensor | None:
        y = call(run, x)
        seen.append(y is not None)
        return y

    monkeypatch.setattr(Run, "__call__", noted)
    return seen


def always(monkeypatch: pytest.MonkeyPatch) -> None:
    """Code of our own wherever there is some, whatever a trial says."""
    monkeypatch.setattr("dyncomp.core.bodies.chosen", lambda key, able, trial: True)
    monkeypatch.setattr("dyncomp.core.experts.chosen", lambda key, able, trial: list(able().values())[-1])


def one_by_one(net: Net, x: Tensor) -> Tensor:
    with left_out():
        logits: Tensor = net(x, sparse=True, record=False).logits
    return logits


@pytest.mark.parametrize(
    ("name", "mode"),
    [(name, torch.inference_mode) for name in SPECS]
    + [(name, torch.no_grad) for name in SPECS if name != "bottlenecks"],
)
def test_a_run_is_its_blocks_one_by_one(
    name: str, mode: Callable[[], torch.no_grad], ran: list[bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    always(monkeypatch)
    net = made(name)
    blocks = [module for module in net.modules() if type(module) is ReadyBlocks]
    assert blocks
    for images in (1, 6, 6, 1, 3):
        x = features(images, seed=images)
        before = x.clone()
        with mode():
            wanted = one_by_one(net, x)
            ran.clear()
            ours = net(x, sparse=True, record=False).logits
        torch.testing.assert_close(ours, wanted, rtol=1e-10, atol=1e-10)
        assert any(ran)
        assert torch.equal(x, before)


@pytest.mark.parametrize("name", ["form residual", "form output, recurrent", "planned"])
@torch.inference_mode()
def test_images_decide_both_ways_and_each_for_itself(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    always(monkeypatch)
    with torch.inference_mode(False):
        net = made(name)
    x = features(6)
    used = torch.cat([decision.used for decision in net(x).trace.values()], dim=1)
    assert 0 < float(used.mean()) < 1
    together = net(x, sparse=True, record=False).logits
    alone = torch.cat([net(x[i : i + 1], sparse=True, record=False).logits for i in range(len(x))])
    torch.testing.assert_close(alone, together, rtol=1e-10, atol=1e-10)


@torch.inference_mode()
def test_whoever_asks_for_more_gets_the_blocks_one_by_one(ran: list[bool], monkeypatch: pytest.MonkeyPatch) -> None:
    always(monkeypatch)
    with torch.inference_mode(False):
        net = made("form residual")
    x = features(2)
    net(x, sparse=True)  # with a record of what was decided
    with left_out():
        net(x, sparse=True, record=False)
    with MacCounter():
        net(x, sparse=True, record=False)
    assert not any(ran)
    heard = list[nn.Module]()
    block = next(module for module in net.modules() if type(module) is ReadyBlocks)[0]
    handle = block.register_forward_hook(lambda module, inputs, output: heard.append(module))
    net(x, sparse=True, record=False)
    assert heard == [block]
    handle.remove()
    ran.clear()
    net(x, sparse=True, record=False)
    assert any(ran)


@torch.inference_mode()
def test_a_run_follows_parameters_and_can_be_copied(ran: list[bool], monkeypatch: pytest.MonkeyPatch) -> None:
    always(monkeypatch)
    with torch.inference_mode(False):
        net = made("form output, recurrent")
    x = features(3)
    before = net(x, sparse=True, record=False).logits
    twin = copy.deepcopy(net)
    file = io.BytesIO()
    torch.save(net.state_dict(), file)
    with torch.inference_mode(False), torch.no_grad():
        for parameter in net.parameters():
            parameter.mul_(0.9)
    ran.clear()
    changed = net(x, sparse=True, record=False).logits
    torch.testing.assert_close(changed, one_by_one(net, x), rtol=1e-10, atol=1e-10)
    assert any(ran)
    assert not torch.allclose(changed, before)
    torch.testing.assert_close(twin(x, sparse=True, record=False).logits, before, rtol=1e-12, atol=1e-12)
    file.seek(0)
    net.load_state_dict(torch.load(file, weights_only=True))
    torch.testing.assert_close(net(x, sparse=True, record=False).logits, before, rtol=1e-12, atol=1e-12)


class Overruled(Gate):
    """Runs a gate and opens by something else."""

    def __init__(self, gate: Gate, numbers: Tensor) -> None:
        super().__init__()
        self.gate, self.numbers = gate, numbers

    def logits(self, x: Tensor) -> Tensor:
        self.gate.logits(x)
        return self.numbers

    def products(self) -> Products | None:
        return self.gate.products()

    def overruled(self) -> Tensor:
        return self.numbers


@torch.inference_mode()
def test_a_gate_may_be_overruled(ran: list[bool], monkeypatch: pytest.MonkeyPatch) -> None:
    always(monkeypatch)
    with torch.inference_mode(False):
        net = made("form residual")
    x, draw = features(5), torch.Generator().manual_seed(2)
    for op in net.sites.values():
        assert isinstance(op.gate, Gate)
        op.gate = Overruled(op.gate, torch.randn(5, 1, generator=draw))  # float32: not the features' type
    ours = net(x, sparse=True, record=False).logits
    assert any(ran)
    torch.testing.assert_close(ours, one_by_one(net, x), rtol=1e-10, atol=1e-10)


@torch.inference_mode()
def test_other_forms_in_turn_leave_nothing_behind() -> None:
    with torch.inference_mode(False):
        net = made("form residual")
    x = features(4)
    with in_turn():
        answers = [net(x, sparse=True, record=False).logits for _ in range(4)]
    runs = [run for module in net.modules() for run in getattr(module, "runs", {}).values()]
    assert runs and not any(run._tables for run in runs)
    for answer in answers[1:]:
        torch.testing.assert_close(answer, answers[0], rtol=1e-10, atol=1e-10)


@torch.inference_mode()
def test_what_a_run_is_not_prepared_for_goes_one_by_one(ran: list[bool], monkeypatch: pytest.MonkeyPatch) -> None:
    always(monkeypatch)
    monkeypatch.setattr("dyncomp.core.runs.BATCHES", 1)
    with torch.inference_mode(False):
        net = made("form output, recurrent")
    for images in (2, 3, 9, 1, 0, 2):
        x = features(images)
        torch.testing.assert_close(net(x, sparse=True, record=False).logits, one_by_one(net, x), rtol=1e-10, atol=1e-10)
    assert any(ran) and not all(ran)
