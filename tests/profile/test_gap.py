"""The parts of a network's time: they add up, they are told apart by scope, and the work behind them by hand."""

from __future__ import annotations

import time

import pytest
import torch
from torch import Tensor, nn

from dyncomp import build
from dyncomp.core import Net, ResidualBlock, measure_costs
from dyncomp.core.counter import MOVING, MacCounter
from dyncomp.ops import Gated
from dyncomp.profile import attribute
from dyncomp.profile import gap as gaps
from dyncomp.profile.gap import Gap, Work, is_gate, is_moving, rest, watched_ms, work
from dyncomp.profile.passes import goes_on
from dyncomp.profile.stopwatch import Stopwatch, call_ms
from dyncomp.store.schema import PartsRecord, keys_of
from tests.handmade import ALWAYS_MACS, BODY_MACS, Gate, bright_or_dark, gated_net, is_bright

BRIGHT = [True, False, True, True, False, False, True, True]


def images(bright: list[bool]) -> Tensor:
    return next(bright_or_dark(bright).batches(len(bright))).images


def site_of(net: Net) -> str:
    (site,) = net.sites
    return site


def a_gap(**more: object) -> Gap:
    """A gate, a body and the rest; half of the images use the body."""
    given = {
        "batch_size": 4,
        "cycles": 3,
        "static_ms": 30.0,
        "method_ms": 40.0,
        "slowdown": 1.0,
        "call_ms": 0.5,
        "static": Work({None: 300.0}, {None: 6.0}),
        "own": Work({None: 100.0, ("s", 0): 100.0, ("s", None): 10.0}, {None: 2.0, ("s", 0): 4.0, ("s", None): 3.0}),
        "full": Work({None: 100.0, ("s", 0): 200.0, ("s", None): 10.0}, {None: 2.0, ("s", 0): 4.0, ("s", None): 3.0}),
        "own_ms": {None: 11.0, ("s", 0): 15.0, ("s", None): 8.0, ("s", MOVING): 6.0},
        "full_ms": {None: 10.0, ("s", 0): 24.0, ("s", None): 8.0},
        "verdict": "VALID",
    }
    return Gap(**{**given, **more})  # type: ignore[arg-type]


def test_parts_by_hand() -> None:
    parts = a_gap().parts_ms()
    assert parts["arithmetic"] == pytest.approx(30 * 200 / 300)  # at static's pace
    assert parts["pace"] == pytest.approx(10 + 24 * 100 / 200 - 20)
    assert parts["gates"] == 8
    assert parts["moving"] == 6
    assert parts["launches"] == pytest.approx(0.5 * (2 + 4 - (2 + 4 * 100 / 200)))
    assert parts["smaller_batches"] == pytest.approx(11 + 15 - (10 + 12) - 1)
    assert sum(parts.values()) == pytest.approx(40)


def test_a_body_that_never_ran_is_scaled_to_nothing() -> None:
    own = Work({None: 100.0}, {None: 2.0})
    parts = a_gap(own=own, own_ms={None: 10.0}, method_ms=10.0).parts_ms()
    assert parts["pace"] == pytest.approx(0)
    assert parts["launches"] == 0
    assert sum(parts.values()) == pytest.approx(10)


def test_the_record_says_both_conventions_per_image() -> None:
    record = a_gap().as_record()
    assert record["macs"] == 210 / 4
    assert record["flops"] == 2 * record["macs"]
    assert tuple(record["parts_ms"]) == tuple(keys_of(PartsRecord))


def test_work_by_hand() -> None:
    net = gated_net(is_bright)
    done = work(net, [images(BRIGHT), images([False] * 8)])
    site = site_of(net)
    assert done.macs[(site, 0)] == sum(BRIGHT) * BODY_MACS / 2
    assert done.macs[None] == 8 * ALWAYS_MACS
    assert done.macs_total == done.macs_rest
    assert done.calls[(site, 0)] == 0.5  # one convolution, for one of two batches
    assert done.calls[(site, MOVING)] > 0


def test_moving_and_gates_are_told_apart_and_have_no_multiply_adds() -> None:
    for spec in ("skipnet", "fbs", "dynconv", "early_exit", "hydranet"):
        net = build(spec, "cifar_resnet8", classes=4, in_channels=1, image_size=8).eval()
        with MacCounter() as counter:
            net(torch.rand(6, 1, 8, 8), sparse=True, record=False, meter=counter)
        moving = [scope for scope in counter.calls if is_moving(scope)]
        assert moving, spec
        assert not any(counter.by_scope[scope] for scope in moving), spec
        assert any(is_gate(scope) for scope in counter.calls), spec


class _Slow(nn.Module):
    """Adds nothing, slowly."""

    def __init__(self, seconds: float) -> None:
        super().__init__()
        self.seconds = seconds

    def forward(self, x: Tensor) -> Tensor:
        time.sleep(self.seconds)
        return x * 0


def slow_net(gate_s: float, body_s: float) -> Net:
    def rule(x: Tensor) -> Tensor:
        time.sleep(gate_s)
        return is_bright(x)

    body = nn.Sequential(nn.Conv2d(2, 2, 1), _Slow(body_s))
    block = Gated(ResidualBlock(body, nn.Identity(), nn.Identity()), Gate(rule))
    net = Net(nn.Sequential(block, nn.Flatten(), nn.Linear(32, 2)))
    net.costs = measure_costs(net, torch.zeros(1, 2, 4, 4))
    return net.eval()


def test_the_stopwatch_finds_what_sleeps() -> None:
    found = watched_ms(slow_net(0.03, 0.05), images(BRIGHT))
    gates = sum(ms for scope, ms in found.items() if is_gate(scope))
    assert gates >= 30
    assert found[(SITE_OF_SLOW, 0)] >= 50
    assert sum(rest(found).values()) >= 50
    none_bright = watched_ms(slow_net(0.0, 0.05), images([False] * 4))
    assert (SITE_OF_SLOW, 0) not in none_bright


SITE_OF_SLOW = site_of(slow_net(0, 0))


def test_attribution_adds_up_and_sees_a_slow_gate() -> None:
    net, static = slow_net(0.02, 0.0), gated_net()
    gap = attribute(net, static, [images(BRIGHT), images(BRIGHT[::-1])], seconds=0.0)
    parts = gap.parts_ms()
    assert gap.cycles == 1
    assert gap.verdict == "INVALID: too few passes (1 over the batches, at least 5 are wanted)"
    assert sum(parts.values()) == pytest.approx(gap.method_ms)
    assert parts["gates"] == max(parts.values())


@pytest.mark.parametrize(
    ("own", "told"),
    [
        ([1.0, 1.02, 1.0, 0.98, 1.0], "VALID"),
        ([1.0, 1.0, 1.5, 0.6, 1.3], "INVALID: noisy (interquartile range 30 % of the median)"),
        ([1.0, 1.0], "INVALID: too few passes (2 over the batches, at least 5 are wanted)"),
    ],
)
def test_noisy_or_few_passes_are_told(own: list[float], told: str, monkeypatch: pytest.MonkeyPatch) -> None:
    passes = [[{"static": 1.0, "own": ms, "parts": {None: ms}, "full": {None: ms}}] for ms in own]
    monkeypatch.setattr(gaps, "_cycles", lambda *given: passes)
    assert attribute(gated_net(), gated_net(), [images(BRIGHT)], seconds=0.0).verdict == told


@pytest.mark.parametrize(
    ("cycles", "elapsed", "more"),
    [(0, 99.0, True), (1, 4.9, True), (1, 5.1, False), (5, 0.9, True), (5, 1.1, False), (10, 0.1, False)],
)
def test_passes_go_on_until_there_are_enough(cycles: int, elapsed: float, more: bool) -> None:
    assert goes_on(cycles, elapsed, seconds=1.0) is more


def test_scopes_of_the_stopwatch_are_each_ones_own() -> None:
    watch = Stopwatch(torch.device("cpu"))
    with watch.measuring():
        with watch.scope("outer", 0):
            time.sleep(0.01)
            with watch.scope("inner", None), watch.around():
                time.sleep(0.02)
        with watch.scope("outer", MOVING):
            time.sleep(0.005)
    found = watch.parts_ms()
    assert found[("outer", 0)] >= 30  # its own, and what ran around the inner one
    assert found[("outer", MOVING)] >= 5
    assert watch.total_ms == pytest.approx(sum(found.values()))
    with watch.measuring():
        pass
    assert set(watch.parts_ms()) == {None}


def test_a_call_that_does_nothing_takes_some_time() -> None:
    assert 0 < call_ms(torch.device("cpu")) < 10


def test_a_meter_changes_nothing() -> None:
    net = build("fbs", "cifar_resnet8", classes=4, in_channels=1, image_size=8).eval()
    x = torch.rand(6, 1, 8, 8)
    plainly = net(x, sparse=True).logits
    metered = net(x, sparse=True, meter=Stopwatch(torch.device("cpu")))
    assert torch.equal(metered.logits, plainly)
