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
    Logged,
    Planned,
    ReportStarted,
    ResourcesStarted,
    TimingStarted,
)
from dyncomp.spec import spec_of
from dyncomp.store.schema import CellContent

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
    """One line per thing that happened, and one every few seconds of a cell's training."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.marks = Marks()
        self.last: dict[str, float] = {}

    def tell(self, event: Event) -> None:
        """Print the event, unless it is one of many alike."""
        mark = self.marks.of(event)
        if isinstance(event, CellTrains):
            if event.progress.warning:
                self._print(f"{mark} warning: {event.progress.warning}")
            now, key = time.monotonic(), event.cell.key
            if now - self.last.get(key, 0.0) < PLAIN_EVERY_S and event.progress.done < 1:
                return  # a line about it came a moment ago; the last one of a training is printed anyway
            self.last[key] = now
        if isinstance(event, CellStarted):
            self.last[event.cell.key] = time.monotonic()
        self._print(in_words(event, mark))

    def _print(self, text: str) -> None:
        self.console.print(text, markup=False, highlight=False, soft_wrap=True)


class Live:
    """A bar for every cell in training, or for what is done in their stead; what is finished stands above."""

    def __init__(self, console: Console, progress: Progress) -> None:
        self.console, self.progress = console, progress
        self.marks = Marks()
        self.bars: dict[str, TaskID] = {"": progress.add_task("starting", total=1.0, detail="")}

    def tell(self, event: Event) -> None:
        """Move a bar, or print above them."""
        mark = self.marks.of(event)
        match event:
            case CellTrains(cell, trained):
                detail = f"{_left(event)}, {_training(event)}"
                self.progress.update(self.bars[cell.key], completed=trained.done, detail=detail)
                if trained.warning:
                    self._print(f"{mark} warning: {trained.warning}")
            case CellStarted(cell):
                self._take_away("")
                name = f"{mark} {spec_of(cell.method)}"
                self.bars[cell.key] = self.progress.add_task(name, total=1.0, detail="")
            case CellEnded(cell):
                self._take_away(cell.key)
                self._print(in_words(event, mark))
            case Planned() | Logged():
                self._print(in_words(event, mark))
            case _:
                self._take_away("")
                self.bars[""] = self.progress.add_task("", total=1.0, detail=in_words(event, mark))

    def _take_away(self, bar: str) -> None:
        if bar in self.bars:
            self.progress.remove_task(self.bars.pop(bar))

    def _print(self, text: str) -> None:
        self.console.print(text, markup=False, highlight=False)


class Marks:
    """How a line says which cell it is about: by its number among those that are run, or by its name."""

    def __init__(self) -> None:
        self._numbers: dict[str, str] = {}

    def of(self, event: Event) -> str:
        """The mark of the event's cell; empty where it is about none."""
        match event:
            case CellStarted(cell, number, total):
                return self._numbers.setdefault(cell.key, f"[{number}/{total}]")
            case CellTrains(cell) | CellEnded(cell):
                return self._numbers.get(cell.key, f"{cell}:")
            case _:
                return ""


def in_words(event: Event, mark: str) -> str:
    """The event in a line or several; `mark` stands for its cell."""
    match event:
        case Planned(plan, finished, beforehand):
            lines = [f"  {cell}" for cell in plan.cells]
            head = f"{len(plan.cells)} cells, {finished} finished before"
            if beforehand:
                head += f"; {beforehand} networks that they begin with are trained first"
            twice = [f"given more than once, run once: {spec}" for spec in plan.repeated]
            return "\n".join([head, *lines, *twice, *(f"left out: {one}" for one in plan.left_out)])
        case CellStarted(cell):
            return f"{mark} {cell}"
        case CellTrains():
            return f"{mark} {_training(event)}, {_left(event)}"
        case CellEnded(_, record):
            return "\n".join(f"{mark} {line}" for line in _ended(record))
        case ResourcesStarted(cell, number, total):
            return f"measuring time by operator, memory and energy, {number}/{total}: {cell}"
        case TimingStarted(networks, batch_size):
            return f"timing {networks} networks in turns, batch size {batch_size}"
        case ReportStarted():
            return "writing the report"
        case Logged(place):
            return place


def _training(event: CellTrains) -> str:
    p = event.progress
    share = "" if abs(p.share - 1) < 1e-9 else f", {p.share:.0%} of the MACs"
    return f"{p.stage}: epoch {p.epoch}/{p.epochs}, loss {p.loss:.3f}{share}"


def _left(event: CellTrains) -> str:
    p = event.progress
    return f"{p.seconds * (1 - p.done) / p.done:.0f} s left"


def _ended(record: CellContent) -> list[str]:
    if record["status"] != "ok":
        return [f"failed: {record['error']}"]
    text = (
        f"top-1 {record['top1']:.2f} %, {record['macs'] / 1e6:.2f} M MACs per image, "
        f"{record['routes']} routes, {record['train_seconds']:.0f} s of training"
    )
    return [text, *(f"warning: {warning}" for warning in record["warnings"])]
