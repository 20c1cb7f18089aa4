"""Passes over a few batches that take turns, so that drift hits all alike; and whether they can be relied on."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from statistics import median
from typing import Any

from torch import Tensor

from dyncomp.samples import noise

LEAST, MOST = 5, 10
"""cycles over the batches"""
PATIENCE = 5
"""times the seconds asked for, when cycles are so slow that there would be too few"""

Cycle = Sequence[Mapping[str, Any]]
"""What each way gave, for each batch."""


def take_turns(
    ways: Mapping[str, Callable[[Tensor], Any]], batches: Sequence[Tensor], seconds: float
) -> list[list[dict[str, Any]]]:
    """What each way gives for each batch (B, ...), cycle by cycle; another way begins in each."""
    cycles: list[list[dict[str, Any]]] = []
    start = time.perf_counter()
    while goes_on(len(cycles), time.perf_counter() - start, seconds):
        begin = len(cycles) % len(ways)
        order = [*ways][begin:] + [*ways][:begin]
        cycles.append([{name: ways[name](batch) for name in order} for batch in batches])
    return cycles


def goes_on(cycles: int, elapsed: float, seconds: float) -> bool:
    """Until the seconds are over, but not with fewer cycles than tell something, unless those take far too long."""
    if cycles < LEAST:
        return not cycles or elapsed < PATIENCE * seconds
    return cycles < MOST and elapsed < seconds


def doubts(cycles: Sequence[Cycle], names: Mapping[str, str]) -> list[str]:
    """Why the times cannot be relied on; `names`: the ways that give times, each with its reasons' first words."""
    if len(cycles) < LEAST:
        return [f"too few passes ({len(cycles)} over the batches, at least {LEAST} are wanted)"]
    reasons = []
    for name, begin in names.items():
        totals = [sum(each[name] for each in cycle) for cycle in cycles]
        reasons += [f"{begin}{reason}" for reason in noise([total / median(totals) for total in totals])]
    return reasons
