"""How long a batch takes: real images, every route warmed up, networks in processes of their own that take turns."""

from __future__ import annotations

import math
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from random import Random
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any, Protocol, cast

import numpy as np
import torch
from torch import Tensor

from dyncomp.data import Split
from dyncomp.profile.child import Failed
from dyncomp.profile.load import account, load_between
from dyncomp.samples import Load, Rounds
from dyncomp.samples.verdicts import LEAST_ROUNDS, MOST_WIDTH
from dyncomp.store.schema import FormRecord, SettingRecord

MOST_BATCHES = 128
MOST_IMAGES = 1024
LEAST_BATCHES = 4
WARM_UPS = 2
TURN_MS = 16.0
"""about how long a turn lasts: beside it, handing over costs little"""
MOST_PER_TURN = 8
ROUGH_ROUNDS = 30
"""of a network whose time is only roughly of interest"""
BESIDE = 2
"""networks that share a turn of the reference: with more, turns that are compared lie further apart"""
QUICK_LOOK = 200
"""resamples while rounds still go on"""
PAUSE = 1.15
"""the intervals are looked at again when the rounds have grown by this factor"""


@dataclass(frozen=True)
class Until:
    """When a timing ends: all ratios' intervals narrower than `width`, a share of their middle, or `seconds` over.

    Where there are no ratios, it is the medians' intervals that count. Else milliseconds may stay as rough as the
    machine is noisy: all networks share that noise, and more rounds do not lessen it.

    The seconds are those of one network; a timing of ten may last ten times as long, and one that has too few rounds
    or too wide an interval of a ratio to be valid `prolonged` times longer. The time of the `rough` networks is only
    roughly of interest: `ROUGH_ROUNDS` are enough for them.
    """

    width: float = 0.03
    seconds: float = 3.0
    prolonged: float = 4.0
    rough: Collection[str] = ()

    def is_over(self, rounds: int, seconds: float, enough: bool) -> bool:
        """Whether the time is over after so many seconds per network; `enough`: the ratios are known well enough."""
        return rounds > 0 and seconds >= self.seconds * (1 if enough else self.prolonged)


@dataclass(frozen=True)
class LatencyRounds:
    """Raw samples of one batch size, and how they came to be.

    `rounds` holds every network that could run; `errors` the others; `setting` what the processes say of themselves:
    threads, affinity, gc, clock; `forms` what each network's form says of itself; `seconds` how long the rounds lasted.
    """

    batch_size: int
    rounds: Rounds
    errors: Mapping[str, str]
    load: Load
    seconds: float
    setting: SettingRecord = field(default_factory=SettingRecord)
    forms: Mapping[str, FormRecord] = field(default_factory=dict)


def measure_latency(
    team: Crew,
    split: Split,
    batch_size: int,
    seed: int,
    until: Until,
    reference: str | None = None,
) -> LatencyRounds:
    """Time all networks of a team, round by round, on batches of real images in a seeded order.

    In every round each network has a turn on the same few batches, while the others are blocked in a pipe; the order is
    drawn anew every round, so that drift of the machine, and what the network before leaves behind, hit all alike. The
    `reference` has a turn beside every `BESIDE` others, in an order of their own: a machine that changes its pace does
    so within fractions of a second, and a ratio of turns that lie further apart is that of two paces.
    Before that each network, alone, runs every batch that will come, so that every route and every size of sub-batch is
    warm. Rounds go on until the ratios to `reference` are known well enough, or the time is over; a network whose ratio
    is known takes no further turn. Input and output stay on the device. A network that fails, hangs or dies is left out
    and its error kept; a batch is never made smaller.
    """
    turns = _Turns(team.ready(), dict(team.errors))
    batches = min(MOST_BATCHES, max(LEAST_BATCHES, MOST_IMAGES // batch_size))
    images = _draw(split, batches * batch_size, seed)
    with TemporaryDirectory(prefix="dyncomp-") as folder:
        path = Path(folder) / "images.npy"  # (N, H, W, C), which all processes map: channels last, in memory once
        np.save(path, images.permute(0, 2, 3, 1).contiguous().numpy())
        turns.warm(path, batch_size, batches)
        begin = account(team.processes())
        started = time.perf_counter()
        rounds = turns.take(batches, until, reference)
        seconds = time.perf_counter() - started
        load = load_between(begin, account(team.processes()))
    return LatencyRounds(batch_size, rounds, turns.errors, load, seconds, turns.setting(), turns.forms())


class Asked(Protocol):
    """A network that answers requests: a `Worker`, or one in this process."""

    facts: Mapping[str, Any]

    def ask(self, name: str, *arguments: Any) -> Any:
        """The answer of a method of `Bench`. Raises Failed."""


class Crew(Protocol):
    """Networks to be timed together: a `Team`, or an `Alone`."""

    errors: dict[str, str]

    def ready(self) -> Mapping[str, Asked]:
        """Those that can be asked."""

    def processes(self) -> list[int]:
        """The ids of their processes."""


class _Turns:
    """Who still takes part, and what was measured so far."""

    def __init__(self, workers: Mapping[str, Asked], errors: dict[str, str]) -> None:
        self.workers = dict(workers)
        self.errors = errors
        self.samples: dict[str, list[float]] = {}
        self.beside: dict[str, list[float]] = {}
        self.passes_ms: list[float] = []

    def setting(self) -> SettingRecord:
        facts = next((worker.facts for worker in self.workers.values()), {})
        return cast(SettingRecord, {key: value for key, value in facts.items() if key != "form"})

    def forms(self) -> dict[str, FormRecord]:
        return {name: worker.facts["form"] for name, worker in self.workers.items()}

    def warm(self, path: Path, batch_size: int, batches: int) -> None:
        for name in list(self.workers):
            self._ask(name, "load", str(path), batch_size)
            times = [self._ask(name, "warm", place) for _ in range(WARM_UPS) for place in range(batches)]
            self._ask(name, "rest")
            if name in self.workers:
                self.samples[name] = []
                self.passes_ms.append(median(times[batches:]))

    def take(self, batches: int, until: Until, reference: str | None) -> Rounds:
        per_round = _per_round(self.passes_ms, batches)
        rounds = Rounds(self.samples, per_round, batches // per_round, reference, self.beside)
        networks = len(self.workers)
        begin = time.perf_counter()
        # in another order every round: what a network's predecessor leaves in the caches slows its turn by percents
        others, draw = [name for name in self.workers if name != reference], Random(0)
        done, look, enough = 0, LEAST_ROUNDS, False
        while self.workers and not until.is_over(done, (time.perf_counter() - begin) / networks, enough):
            first = done % rounds.distinct * per_round
            draw.shuffle(others)
            for begins in range(0, max(1, len(others)), BESIDE):
                self._take(others[begins : begins + BESIDE], reference, range(first, first + per_round), done, draw)
            done += 1
            if done >= look:
                look = math.ceil(look * PAUSE)
                enough, unknown = _look(rounds, until.width, reference, () if done < ROUGH_ROUNDS else until.rough)
                if not unknown:
                    break
                if reference in self.workers:  # else there is nothing that all are set against: all go on
                    others = [name for name in others if name in unknown]
        return rounds

    def _take(self, names: Sequence[str], reference: str | None, batches: range, done: int, draw: Random) -> None:
        """A turn of each of these networks and of the reference, in an order that is drawn."""
        order = [*names, *([] if reference is None else [reference])]
        draw.shuffle(order)
        times = {name: self._ask(name, "turn", list(batches), done) for name in order}
        theirs = times.pop(reference, None) if reference is not None else None
        for name, own in times.items():
            if own is not None:
                self.samples[name] += own
                if theirs is not None:
                    self.beside.setdefault(name, []).extend(theirs)
        if reference is None:
            return
        if theirs is None:  # without it there are no ratios
            self.beside.clear()
        elif len(self.samples[reference]) == done * len(batches):
            self.samples[reference] += theirs  # its first turn of the round stands for it

    def _ask(self, name: str, request: str, *arguments: Any) -> Any:
        """The answer; None from a network that fails, or that has failed before."""
        if name not in self.workers:
            return None
        try:
            return self.workers[name].ask(request, *arguments)
        except Failed as error:
            del self.workers[name]
            self.samples.pop(name, None)
            self.beside.pop(name, None)
            self.errors[name] = str(error)
            return None


def _look(
    rounds: Rounds, width: float, reference: str | None, left_out: Collection[str] = ()
) -> tuple[bool, frozenset[str]]:
    """Whether the ratios to a reference that runs are known well enough to be valid; and those not known to `width`.

    Without such ratios the medians stand in for them, and are always known well enough. A width is that of an interval,
    as a share of its middle.
    """
    others = [name for name in rounds.samples_ms if name != reference]
    if not others or len(others) == len(rounds.samples_ms):
        wide = {name for name in rounds.samples_ms if not rounds.median(name, QUICK_LOOK).width <= width}
        return True, frozenset(wide)
    asked = [name for name in others if name not in left_out]
    widths = {name: rounds.speedup(name, reference, QUICK_LOOK).width for name in asked}
    unknown = frozenset(name for name, each in widths.items() if not each <= width)
    return all(each <= MOST_WIDTH for each in widths.values()), unknown


def _per_round(passes_ms: list[float], batches: int) -> int:
    """How many batches a turn has: a power of two, so that turns come round evenly."""
    usual = median(passes_ms) if passes_ms else TURN_MS
    wanted = min(MOST_PER_TURN, batches, max(1.0, TURN_MS / max(usual, 1e-6)))
    return int(2 ** math.floor(math.log2(wanted)))


def _draw(split: Split, wanted: int, seed: int) -> Tensor:
    """(wanted, C, H, W) images in an order that `seed` gives; a split that is too small comes round again."""
    drawn: list[Tensor] = []
    for epoch in count():
        missing = wanted - sum(map(len, drawn))
        if not missing:
            break
        drawn.append(next(iter(split.batches(min(len(split), missing), epoch=epoch, seed=seed))).images)
    return torch.cat(drawn)
