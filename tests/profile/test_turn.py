"""A turn of one network: where it begins, and what runs before the passes that are timed."""

from __future__ import annotations

import os
import time

import pytest
import torch
from torch import Tensor

from dyncomp.profile import Setting
from dyncomp.profile.worker import Bench

BATCHES = 5


def bench_of(warm_up_ms: float, seen: list[int], pass_s: float, processors: tuple[int, ...] = (0,)) -> Bench:
    """A network that notes the number of each batch that it gets, and takes its time."""

    def run(images: Tensor) -> None:
        seen.append(int(images[0]))
        time.sleep(pass_s)

    bench = Bench(lambda: run, Setting("cpu", 1, processors, warm_up_ms))
    bench.run, bench.batches = run, tuple(torch.tensor([number]) for number in range(BATCHES))
    return bench


@pytest.fixture
def placed(monkeypatch: pytest.MonkeyPatch) -> list[set[int]]:
    """The sets of processors that the calling thread was confined to, in order; it stays where it is."""
    found: list[set[int]] = []
    monkeypatch.setattr(os, "sched_setaffinity", lambda thread, those: found.append(set(those)), raising=False)
    return found


def test_turns_begin_on_each_processor_in_turn_and_may_leave_it(placed: list[set[int]]) -> None:
    bench = bench_of(0.0, [], 0.0, (3, 5, 8))
    placed.clear()
    for turn in (0, 1, 2, 3):
        bench.turn([0], turn)
    everywhere = {3, 5, 8}
    assert placed == [{3}, everywhere, {5}, everywhere, {8}, everywhere, {3}, everywhere]


@pytest.mark.usefixtures("placed")
def test_one_batch_at_least_is_run_before_those_that_are_timed() -> None:
    seen: list[int] = []
    assert len(bench_of(0.0, seen, 0.0).turn([0, 1], 0)) == 2
    assert seen == [4, 0, 1]


@pytest.mark.usefixtures("placed")
def test_a_network_warms_up_as_long_as_is_set_on_the_batches_before() -> None:
    seen: list[int] = []
    times = bench_of(35.0, seen, 0.01).turn([1, 2], 0)
    untimed = seen[:-2]
    assert seen[-2:] == [1, 2]
    assert untimed == [(1 - before) % BATCHES for before in range(1, len(untimed) + 1)]
    assert 1 <= len(untimed) <= 4  # a pass of 10 ms begins until 35 ms are over; on a busy machine it takes longer
    assert len(times) == 2
    assert min(times) >= 10.0
