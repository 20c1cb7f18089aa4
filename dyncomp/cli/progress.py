"""Shows what the main job tells: a live line on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn
from rich.table import Column

from dyncomp.bench.events import (
    CellEnded,
    CellStarted,
    CellTrains,
    Event,
    Listener,
    Planned,
    ReportStarted,
    TimingStarted,
)
from dyncomp.spec import spec_of

PLAIN_EVERY_S = 5.0
NAME_WIDTH, BAR_WIDTH = 28, 10  # so that the time left can be read on 80 columns


@contextmanager
def watching() -> Iterator[Listener]:
    """A listener that shows progress on standard error while the block runs."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield Plain(console).tell
        return
    name = TextColumn("{task.description}", markup=False, table_column=Column(max_width=NAME_WIDTH, no_wrap=True))
    detail = TextColumn("{task.fields[detail]}", markup=False, table_column=Column(no_wrap=True))
    columns = (name, BarColumn(bar_width=BAR_WIDTH), detail)
    with Progress(*columns, console=console, transient=True) as progress:
        yield Live(console, progress).tell


class Plain:
    """One line per thing that happened, and one every few seconds of training."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.last = 0.0

    def tell(self, event: Event) -> None:
        """Print the event, unless it is one of many alike."""
        if isinstance(event, CellTrains):
            self._warn(event)
            now = time.monotonic()
            if now - self.last < PLAIN_EVERY_S and event.progress.done < 1:
                return
            self.last = now
        if isinstance(event, CellStarted):
            self.last = time.monotonic()
        self.console.print(in_words(event), markup=False, highlight=False, soft_wrap=True)

    def _warn(self, event: CellTrains) -> None:
        if event.progress.warning:
            self.console.print(f"  warning: {event.progress.warning}", markup=False, highlight=False, soft_wrap=True)


class Live:
    """A bar for the cell in training; what is finished stands above it."""

    def __init__(self, console: Console, progress: Progress) -> None:
        self.console, self.progress = console, progress
        self.task: TaskID = progress.add_task("starting", total=1.0, detail="")

    def tell(self, event: Event) -> None:
        """Move the bar, or print above it."""
        if isinstance(event, CellTrains):
            detail = f"{_left(event)}, {_training(event)}"
            self.progress.update(self.task, completed=event.progress.done, detail=detail)
            if event.progress.warning:
                self.console.print(f"  warning: {event.progress.warning}", markup=False, highlight=False)
        elif isinstance(event, CellStarted):
            name = f"[{event.number}/{event.total}] {spec_of(event.cell.method)}"
            self.progress.update(self.task, description=name, completed=0.0, detail="")
        elif isinstance(event, CellEnded | Planned):
            self.console.print(in_words(event), markup=False, highlight=False)
        else:
            self.progress.update(self.task, description="", completed=0.0, detail=in_words(event))


def in_words(event: Event) -> str:
    """The event as one line."""
    match event:
        case Planned(plan, finished):
            lines = [f"  {cell}" for cell in plan.cells]
            head = f"{len(plan.cells)} cells, {finished} finished before"
            return "\n".join([head, *lines, *(f"left out: {one}" for one in plan.left_out)])
        case CellStarted(cell, number, total):
            return f"[{number}/{total}] {cell}"
        case CellTrains():
            return f"  {_training(event)}, {_left(event)}"
        case CellEnded(_, record):
            return "  " + _ended(record)
        case TimingStarted(networks, batch_size):
            return f"timing {networks} networks in turns, batch size {batch_size}"
        case ReportStarted():
            return "writing the report"


def _training(event: CellTrains) -> str:
    p = event.progress
    share = "" if abs(p.share - 1) < 1e-9 else f", {p.share:.0%} of the MACs"
    return f"{p.stage}: epoch {p.epoch}/{p.epochs}, loss {p.loss:.3f}{share}"


def _left(event: CellTrains) -> str:
    p = event.progress
    return f"{p.seconds * (1 - p.done) / p.done:.0f} s left"


def _ended(record: dict[str, object]) -> str:
    if record["status"] != "ok":
        return f"failed: {record['error']}"
    text = (
        f"top-1 {record['top1']:.2f} %, {float(str(record['macs'])) / 1e6:.2f} M MACs per image, "
        f"{record['routes']} routes, {record['train_seconds']:.0f} s of training"
    )
    warnings = record["warnings"]
    assert isinstance(warnings, list)
    return "\n".join([text, *(f"  warning: {warning}" for warning in warnings)])
