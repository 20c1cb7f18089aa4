"""Whoever decides for other images than there are is told in one line, and nothing is read or written for it."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from dyncomp.core import Decision, Net, ResidualBlock
from dyncomp.fast import codegen
from dyncomp.ops import Filtered, Gated, Mixed, Planned, Switch
from dyncomp.ops.gates import Gate
from tests.fast.test_faults import answer, images, made, one_by_one
from tests.guarded import guarded

pytestmark = [
    pytest.mark.skipif(codegen.this_machine() is None, reason="no machine code for this machine"),
    pytest.mark.usefixtures("memory_before_faults"),
]


class Fixed(nn.Module):
    """In the place of a gate, a router or a policy: says the same of every batch."""

    def __init__(self, said: Tensor) -> None:
        super().__init__()
        self.said = said

    def forward(self, x: Tensor) -> Tensor:
        return self.said


class FixedGate(Gate):
    """Opens by given numbers, in a run and out of one."""

    def __init__(self, gate: Gate, said: Tensor) -> None:
        super().__init__()
        self.gate, self.said = gate, said

    def logits(self, x: Tensor) -> Tensor:
        self.gate.logits(x)
        return self.said


class FixedSwitch(Switch):
    """Uses given filters, in a run and out of one."""

    def __init__(self, switch: Switch, said: Tensor) -> None:
        super().__init__()
        self.switch, self.units, self.said = switch, switch.units, said

    def forward(self, pooled: Tensor) -> Decision:
        used = (self.said > 0).to(pooled)
        return Decision(used, used, used)


class Other(nn.Module):
    """Gives another number of images than it gets."""

    def __init__(self, layer: nn.Module, more: bool) -> None:
        super().__init__()
        self.layer, self.more = layer, more

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.layer(x)
        return torch.cat([y, y]).contiguous(memory_format=torch.channels_last) if self.more else y[:1]


def ones(*shape: int) -> Tensor:
    return guarded(torch.ones(shape, dtype=torch.float64))


def first(net: Net, kind: type[nn.Module]) -> nn.Module:
    return next(module for module in net.modules() if type(module) is kind)


def gate_says(said: Tensor) -> Callable[[Net], None]:
    def change(net: Net) -> None:
        op = first(net, Gated)
        op.gate = FixedGate(op.gate, said)

    return change


def plain_gate_says(said: Tensor) -> Callable[[Net], None]:
    def change(net: Net) -> None:
        first(net, Gated).gate = Fixed(said)

    return change


def switch_says(said: Tensor) -> Callable[[Net], None]:
    def change(net: Net) -> None:
        op = first(net, Filtered)
        op.switch = FixedSwitch(op.switch, said)

    return change


def policy_says(said: Tensor) -> Callable[[Net], None]:
    def change(net: Net) -> None:
        first(net, Planned).policy = Fixed(said)

    return change


def router_says(said: Tensor) -> Callable[[Net], None]:
    def change(net: Net) -> None:
        for module in net.modules():
            if type(module) is Mixed:
                module.router = Fixed(said)

    return change


def a_body_gives(more: bool) -> Callable[[Net], None]:
    def change(net: Net) -> None:
        block = first(net, ResidualBlock)
        block.body = Other(block.body, more)

    return change


def a_shortcut_gives(more: bool) -> Callable[[Net], None]:
    def change(net: Net) -> None:
        block = first(net, ResidualBlock)
        block.shortcut = Other(block.shortcut, more)

    return change


def the_stem_gives(more: bool) -> Callable[[Net], None]:
    def change(net: Net) -> None:
        name, stem = next((name, part) for name, part in net.model.named_modules() if name.endswith("stem"))
        net.model.set_submodule(name, Other(stem, more))

    return change


class Remembers(nn.Module):
    """Leaves recurrent gates a state of so many images."""

    def __init__(self, layer: nn.Module, net: Net, state: Tensor) -> None:
        super().__init__()
        self.layer, self.owner, self.state = layer, [net], state

    def forward(self, x: Tensor) -> Tensor:
        for name in ("hidden", "memory"):
            self.owner[0].tape.remember(name, self.state)
        y: Tensor = self.layer(x)
        return y


def state_is(state: Tensor) -> Callable[[Net], None]:
    def change(net: Net) -> None:
        name, stem = next((name, part) for name, part in net.model.named_modules() if name.endswith("stem"))
        net.model.set_submodule(name, Remembers(stem, net, state))

    return change


WRONG: dict[str, tuple[str, Callable[[Net], None]]] = {}
for rows in ((0, 1), (1, 1), (2, 1), (9, 1), (3, 3), (3, 0)):
    if rows != (3, 3):
        WRONG[f"a gate says {rows}"] = "convnet_aig", gate_says(ones(*rows))
        WRONG[f"a gate of other code says {rows}"] = "convnet_aig", plain_gate_says(ones(*rows))
for rows in ((0, 8), (1, 8), (2, 8), (9, 8), (3, 1), (3, 7), (3, 9)):
    WRONG[f"a switch says {rows}"] = "lkam", switch_says(ones(*rows))
    WRONG[f"a weighted switch says {rows}"] = "fbs", switch_says(ones(*rows))
for rows in ((0, 3), (1, 3), (2, 3), (9, 3), (3, 0), (3, 2), (3, 5)):
    WRONG[f"a policy says {rows}"] = "blockdrop", policy_says(ones(*rows))
for rows in ((0, 2), (2, 2), (9, 2), (3, 1), (3, 4)):
    WRONG[f"a router says {rows}"] = "condconv(experts=2, begin=1)", router_says(ones(*rows))
    WRONG[f"routers of layers say {rows}"] = "dynamic_conv(kernels=2)", router_says(ones(*rows))
for rows in ((0, 10), (2, 10), (9, 10), (3, 9), (3, 11)):
    WRONG[f"a state of {rows}"] = "skipnet", state_is(ones(*rows))

LAYERS = [
    (spec, change, more)
    for spec in ("static", "convnet_aig", "skipnet", "blockdrop", "condconv(begin=1)", "lkam")
    for change in (a_body_gives, a_shortcut_gives, the_stem_gives)
    for more in (True, False)
]


@pytest.mark.parametrize("name", WRONG)
def test_whoever_decides_for_other_images_is_told(name: str) -> None:
    spec, change = WRONG[name]
    net, x = made(spec), images(3)
    answer(net, x)
    change(net)
    for record in (False, True):
        with torch.inference_mode(), pytest.raises((ValueError, RuntimeError)) as caught:
            net(x, sparse=True, record=record)
        assert len(str(caught.value).splitlines()) < 3


@pytest.mark.parametrize(("spec", "change", "more"), LAYERS)
def test_a_layer_that_changes_the_batch_raises_or_does_what_torch_does(
    spec: str, change: Callable[[bool], Callable[[Net], None]], more: bool
) -> None:
    """Outputs of one image are added to those of all, as torch's sums are."""
    net, x = made(spec), images(3)
    change(more)(net)
    try:
        wanted = one_by_one(net, x)
    except (ValueError, RuntimeError):
        with pytest.raises((ValueError, RuntimeError)):
            answer(net, x)
    else:
        torch.testing.assert_close(answer(net, x), wanted, rtol=1e-10, atol=1e-10)
