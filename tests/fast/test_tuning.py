"""The tuner: the faster way by the clock, once per key, and never where a trial would disturb."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from dyncomp import build
from dyncomp.core import measure_costs
from dyncomp.core.counter import MacCounter, uncounted
from dyncomp.fast import by_last_ways, codegen
from dyncomp.fast import tuning as tuner
from dyncomp.fast.deploy import folded
from dyncomp.fast.shape_key import shape_key
from dyncomp.ops.experts import ExpertConv2d
from dyncomp.ops.mixture import Mix, Mixture


class Clock:
    """Stands still but for those who say how long they take."""

    def __init__(self) -> None:
        self.now = 0.0
        self.calls: list[str] = []

    def way(self, name: str, *durations: float) -> Callable[[], None]:
        left = list(durations)

        def run() -> None:
            self.calls.append(name)
            self.now += left.pop(0) if len(left) > 1 else left[0]

        return run


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(time, "perf_counter", lambda: made.now)
    monkeypatch.setattr(tuner, "_choices", {})
    return made


@pytest.mark.parametrize(("seconds", "best"), [((1.0, 2.0, 3.0), "a"), ((3.0, 1.0, 2.0), "b"), ((2.0, 3.0, 1.0), "c")])
def test_the_faster_way_is_chosen(clock: Clock, seconds: tuple[float, ...], best: str) -> None:
    ways = {name: clock.way(name, s) for name, s in zip("abc", seconds, strict=True)}
    assert tuner.fastest("key", ways) == best


def test_the_first_round_only_warms_up(clock: Clock) -> None:
    assert (
        tuner.fastest("key", {"slow start": clock.way("slow", 9.0, 1.0), "steady": clock.way("b", 2.0)}) == "slow start"
    )
    assert clock.calls[0] == "slow"


def test_a_hiccup_does_not_decide(clock: Clock) -> None:
    assert tuner.fastest("key", {"a": clock.way("a", 1.0, 50.0, 1.0), "b": clock.way("b", 2.0)}) == "a"


@pytest.mark.parametrize("calls_before", range(2, 12))
@pytest.mark.parametrize("factor", [0.6, 1.6])
def test_a_machine_that_changes_its_pace_does_not_decide(clock: Clock, calls_before: int, factor: float) -> None:
    """By the shortest times the slower way would be chosen where it alone was called at the fast pace."""

    def way(seconds: float) -> Callable[[], None]:
        def run() -> None:
            clock.calls.append("")
            clock.now += seconds * (factor if len(clock.calls) > calls_before else 1.0)

        return run

    for slower, faster in (("a", "b"), ("b", "a")):  # in the order of the alphabet
        clock.calls.clear()
        seconds = {slower: 1.2, faster: 1.0}
        assert tuner.fastest(slower, {name: way(seconds[name]) for name in sorted(seconds)}) == faster


def test_what_is_hopeless_twice_is_not_tried_again(clock: Clock) -> None:
    assert tuner.fastest("key", {"a": clock.way("a", 9.0), "b": clock.way("b", 1.0)}) == "b"
    assert clock.calls.count("a") == 2


def test_what_takes_long_at_first_only_has_its_chance(clock: Clock) -> None:
    assert tuner.fastest("key", {"a": clock.way("a", 9.0, 0.5), "b": clock.way("b", 1.0)}) == "a"


def test_a_short_first_call_is_forgiven(clock: Clock) -> None:
    assert tuner.fastest("key", {"a": clock.way("a", 0.09, 0.0001), "b": clock.way("b", 0.001)}) == "a"


@pytest.mark.parametrize(("seconds", "calls"), [(1.0, 1 + 3), (2.0**-10, 1 + 6), (2.0**-17, 1 + 30)])
def test_short_ways_are_tried_more_often(clock: Clock, seconds: float, calls: int) -> None:
    """The shortest of three calls may be an interrupted one: rounds go on for ten milliseconds, thirty at most."""
    tuner.fastest("key", {"a": clock.way("a", seconds), "b": clock.way("b", seconds)})
    assert clock.calls.count("a") == clock.calls.count("b") == calls


def test_each_key_is_tried_once_and_remembered(clock: Clock) -> None:
    ways = {"a": clock.way("a", 2.0), "b": clock.way("b", 1.0)}
    assert tuner.fastest("first", ways) == "b"
    tried = len(clock.calls)
    assert tuner.fastest("first", ways) == "b"
    assert len(clock.calls) == tried
    tuner.fastest("second", ways)
    assert len(clock.calls) == 2 * tried
    assert tuner.choices() == {"first": "b", "second": "b"}


def test_a_single_way_is_not_tried(clock: Clock) -> None:
    assert tuner.fastest("key", {"only": clock.way("only", 1.0)}) == "only"
    assert clock.calls == []


def test_nothing_is_tried_while_operators_are_watched(clock: Clock) -> None:
    ways = {"a": clock.way("a", 2.0), "b": clock.way("b", 1.0)}
    with FlopCounterMode(display=False):
        assert tuner.fastest("key", ways) == "a"
    assert clock.calls == []
    assert tuner.fastest("key", ways) == "b"
    with FlopCounterMode(display=False):
        assert tuner.fastest("key", ways) == "b"


def test_costs_are_measured_without_a_trial() -> None:
    net = build("condconv", "cifar_resnet8(width=0.5)", classes=5, image_size=16)
    before = tuner.choices()
    measure_costs(net, torch.zeros(1, 3, 16, 16))
    assert tuner.choices() == before


def test_code_reports_nothing_in_a_trial(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(codegen.Convolution, "macs", lambda program, given: pytest.fail("asked for its MACs"))
    layer, x = nn.Conv2d(3, 4, 3), torch.zeros(1, 3, 8, 8).contiguous(memory_format=torch.channels_last)
    ready = folded(layer, x)
    with torch.no_grad(), MacCounter() as counter, uncounted(), by_last_ways():
        ready(x)
    assert counter.total == 0


def test_a_trial_is_not_counted() -> None:
    x = torch.randn(3, 3)
    with MacCounter() as counter:
        name = tuner.fastest("key", {"a": lambda: x @ x, "b": lambda: x @ x @ x})
        assert counter.total == 0
        x @ x
    assert name in ("a", "b")
    assert counter.total == 27


def test_in_turn_every_way_is_taken_and_none_is_tried(clock: Clock) -> None:
    ways = {"a": clock.way("a", 2.0), "b": clock.way("b", 1.0)}
    with tuner.in_turn():
        taken = [tuner.fastest("key", ways) for _ in range(4)]
    assert sorted(taken) == ["a", "a", "b", "b"]
    assert clock.calls == []


@pytest.mark.parametrize("training", [True, False])
def test_auto_tries_both_training_modes_and_leaves_no_gradient(clock: Clock, training: bool) -> None:
    layer = ExpertConv2d(nn.Conv2d(4, 4, 3, padding=1), Mixture(3, "auto"))
    layer.mixture.use(Mix(torch.rand(2, 3)))
    for held in (False, True):
        layer.weight.requires_grad_(not held)  # a stage may hold what it does not train
        with torch.set_grad_enabled(training):
            y = layer(torch.randn(2, 4, 5, 5))
        assert y.requires_grad == training  # the bias learns in both cases
        assert layer.weight.grad is None
    (mode,) = (way for key, way in tuner.choices().items() if key.startswith("('mix'"))
    assert mode in ("kernels", "outputs")


def test_packed_batches_of_similar_size_share_a_choice() -> None:
    keys = {size: shape_key(torch.empty(size, 3, 8, 8)) for size in (0, 1, 2, 3, 4, 5, 8, 9, 256)}
    assert keys[3] == keys[4]
    assert keys[5] == keys[8]
    assert len(set(keys.values())) == 7
    assert shape_key(torch.empty(4, 3, 8, 8, dtype=torch.float64)) != keys[4]
    assert shape_key(torch.empty(4, 3, 8, 8).contiguous(memory_format=torch.channels_last)) != keys[4]
