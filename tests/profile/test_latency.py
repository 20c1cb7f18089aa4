"""Latency: which images are timed, in which order, by whom, and what happens to a network that fails."""

from __future__ import annotations

import gc
import itertools
from collections.abc import Sequence

import pytest

from dyncomp.profile import LatencyRounds, measure_latency
from dyncomp.profile import latency as latency_module
from tests.handmade import Log, numbered_split, spy_net

NAMES = ("a", "b", "c")


def measured(
    log: Log, names: Sequence[str] = NAMES, images: int = 100, batch_size: int = 8, fails: dict[str, int] | None = None
) -> LatencyRounds:
    nets = {name: spy_net(name, log, (fails or {}).get(name)) for name in names}
    return measure_latency(nets, numbered_split(images), batch_size, seed=3, seconds=0.0, rounds=30)


def batches(batch_size: int) -> int:
    """How many different batches there are, spelled out."""
    return {1: 128, 8: 128, 16: 64, 64: 16, 400: 4}[batch_size]


def rounds_of(log: Log, warm_up: int, networks: int) -> list[list[tuple[str, list[int]]]]:
    timed = log.calls[warm_up:]
    return [timed[start : start + networks] for start in range(0, len(timed), networks)]


@pytest.mark.parametrize("batch_size", [1, 8, 16, 64, 400])
def test_warm_up_covers_every_batch_that_is_timed(batch_size: int) -> None:
    log = Log()
    result = measured(log, batch_size=batch_size)
    count = 2 * batches(batch_size)
    warm = log.calls[: 3 * count]
    assert [name for name, _ in warm] == ["a"] * count + ["b"] * count + ["c"] * count
    seen = [images for _, images in warm[:count]]
    assert seen[: count // 2] == seen[count // 2 :]
    assert {tuple(images) for _, images in log.calls} == {tuple(images) for images in seen}
    assert len(log.calls) == 3 * (count + 30)
    assert {name: len(samples) for name, samples in result.samples_ms.items()} == dict.fromkeys(NAMES, 30)


def test_real_images_of_the_split_in_the_seeded_order() -> None:
    log = Log()
    measured(log, batch_size=16)
    split = numbered_split(100)
    orders = [next(split.batches(100, epoch=epoch, seed=3)).index.tolist() for epoch in range(10)]
    last = next(split.batches(1024 - 1000, epoch=10, seed=3)).index.tolist()
    drawn = list(itertools.chain(*(images for _, images in log.calls[:64])))
    assert drawn == [*itertools.chain(*orders), *last]
    assert orders[0] != list(range(100))


@pytest.mark.parametrize("batch_size", [8, 400])
def test_every_network_sees_the_same_images_in_each_round_and_the_order_rotates(batch_size: int) -> None:
    log = Log()
    measured(log, batch_size=batch_size)
    rounds = rounds_of(log, 3 * 2 * batches(batch_size), 3)
    assert len(rounds) == 30
    for number, turn in enumerate(rounds):
        assert [images for _, images in turn] == [turn[0][1]] * 3
        assert [name for name, _ in turn] == [NAMES[(number + place) % 3] for place in range(3)]
        assert len(turn[0][1]) == batch_size
    count = batches(batch_size)
    assert rounds[0][0][1] == log.calls[0][1]
    assert all(rounds[number][0][1] == rounds[number % count][0][1] for number in range(30))


def test_a_batch_larger_than_the_split_holds_real_images_only() -> None:
    log = Log()
    result = measured(log, images=10, batch_size=64)
    for _, images in log.calls:
        assert len(images) == 64
        assert set(images) == set(range(10))
    assert not result.errors
    assert result.batch_size == 64


@pytest.mark.parametrize(
    ("fails_at", "before"),
    [(1, 0), (40, 39), (2 * 128 + 1, 256), (2 * 128 + 11, 266)],
    ids=["at once", "warming", "first", "11th"],
)
def test_a_network_that_fails_is_named_and_the_others_go_on(fails_at: int, before: int) -> None:
    log = Log()
    result = measured(log, fails={"b": fails_at})
    assert result.errors == {"b": "MemoryError: no room left"}
    assert set(result.samples_ms) == {"a", "c"}
    assert all(len(samples) == 30 for samples in result.samples_ms.values())
    assert sum(name == "b" for name, _ in log.calls) == before + 1


def test_all_networks_failing_ends() -> None:
    result = measured(Log(), fails=dict.fromkeys(NAMES, 1))
    assert result.samples_ms == {}
    assert set(result.errors) == set(NAMES)


def test_raw_samples_are_times_in_milliseconds(monkeypatch: pytest.MonkeyPatch) -> None:
    ticks = iter(range(0, 10**15, 2_500_000))  # every look at the clock is 2.5 ms later
    monkeypatch.setattr(latency_module.time, "perf_counter_ns", lambda: next(ticks))
    result = measured(Log())
    assert result.samples_ms == {name: [2.5] * 30 for name in NAMES}


def test_goes_on_until_the_time_is_over(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(range(10**6))  # a second at each look
    monkeypatch.setattr(latency_module.time, "perf_counter", lambda: float(next(clock)))
    nets = {"a": spy_net("a", Log())}
    result = measure_latency(nets, numbered_split(20), 8, seed=0, seconds=50.0, rounds=10)
    assert len(result.samples_ms["a"]) == pytest.approx(10 + 50, abs=1)


@pytest.mark.parametrize("enabled", [True, False])
def test_garbage_collection_is_as_it_was(enabled: bool) -> None:
    was = gc.isenabled()
    try:
        gc.enable() if enabled else gc.disable()
        measured(Log(), fails={"a": 70})
        assert gc.isenabled() is enabled
    finally:
        gc.enable() if was else gc.disable()
