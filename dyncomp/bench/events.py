"""What the main job tells while it runs; who shows it, and how, is not its matter."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from dyncomp.bench.group import Cell
from dyncomp.bench.plan import Plan
from dyncomp.store.schema import CellContent
from dyncomp.train import Progress


@dataclass(frozen=True)
class Planned:
    """The work is known: all cells, those left out, how many cells have a record already.

    `beforehand` counts the networks that are trained only because cells begin with them.
    """

    plan: Plan
    finished: int
    beforehand: int = 0


@dataclass(frozen=True)
class CellStarted:
    """A cell begins to train; `number` of `total` that are to be run."""

    cell: Cell
    number: int
    total: int


@dataclass(frozen=True)
class CellTrains:
    """A cell is in training; several may be."""

    cell: Cell
    progress: Progress


@dataclass(frozen=True)
class CellEnded:
    """A cell has its record, good or failed."""

    cell: Cell
    record: CellContent


@dataclass(frozen=True)
class ResourcesStarted:
    """Time by operator, memory and energy of a trained network are measured; `number` of `total` that lack them."""

    cell: Cell
    number: int
    total: int


@dataclass(frozen=True)
class TimingStarted:
    """The networks of one comparison are timed together at this batch size."""

    networks: int
    batch_size: int


@dataclass(frozen=True)
class ReportStarted:
    """Tables and plots are being written."""


@dataclass(frozen=True)
class Logged:
    """The results were sent to a tracker; where they are to be seen."""

    place: str


Event = Planned | CellStarted | CellTrains | CellEnded | ResourcesStarted | TimingStarted | ReportStarted | Logged
Listener = Callable[[Event], None]


def silent(event: Event) -> None:
    """Tells nobody."""
