"""What else the machine did during a measurement, from the kernel's own accounts; unknown where it keeps none."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from dyncomp.samples import Load

IDLE = (3, 4)
"""columns of a processor's line in /proc/stat that are no work: idle, and waiting for a disk"""
WORK = 8
"""columns up to `steal`; the rest are contained in them"""
LEAST_S = 0.5
"""below it the kernel's ticks of 10 ms say nothing"""


def allowed_processors() -> tuple[int, ...]:
    """The processors that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return tuple(sorted(os.sched_getaffinity(0)))
    return tuple(range(os.cpu_count() or 1))


@dataclass(frozen=True)
class Account:
    """Seconds of processor time so far: all that the allowed processors worked, and what of it was our own."""

    at: float
    worked: float
    own: float


def account(processes: Iterable[int]) -> Account | None:
    """The account now, our own being this process and those of the given ids; None where the kernel tells none."""
    try:
        tick = os.sysconf("SC_CLK_TCK")
        worked = _worked(Path("/proc/stat").read_text(), set(allowed_processors()))
        own = sum(_spent(pid) for pid in (os.getpid(), *processes))
    except (OSError, ValueError, AttributeError):
        return None
    return Account(time.perf_counter(), worked / tick, own / tick)


def load_between(begin: Account | None, end: Account | None) -> Load:
    """How many processors others kept busy between two accounts, on average, of those that we may run on."""
    processors = len(allowed_processors())
    average = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    if begin is None or end is None or end.at - begin.at < LEAST_S:
        return Load(processors, None, None, average)
    seconds = end.at - begin.at
    own = (end.own - begin.own) / seconds
    others = (end.worked - begin.worked) / seconds - own
    return Load(processors, own, max(0.0, others), average)


def _worked(stat: str, processors: set[int]) -> int:
    lines = (line.split() for line in stat.splitlines() if line.startswith("cpu"))
    known = {int(name[3:]): columns for name, *columns in lines if name != "cpu"}
    return sum(
        int(ticks)
        for processor in processors & known.keys()
        for place, ticks in enumerate(known[processor][:WORK])
        if place not in IDLE
    )


def _spent(pid: int) -> int:
    """Ticks in user and system mode; none of a process that has ended meanwhile."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except FileNotFoundError:
        return 0
    return int(fields[11]) + int(fields[12])
