"""One cell in full, and what went wrong in the cells that have no numbers."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from dyncomp.report import numbers as n
from dyncomp.report.extras import point_table, resources, stream_table
from dyncomp.report.reading import Reading, Record
from dyncomp.report.spent import class_table, operator_table
from dyncomp.report.spent import facts as spent_facts
from dyncomp.report.tables import Table, gate_table, stage_table

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Detail:
    """One cell in full: its gates, its training, what it warns of."""

    title: str
    paper: str
    link: str | None
    facts: tuple[tuple[str, str], ...]
    gates: Table | None
    stages: Table | None
    points: Table | None
    streams: Table | None
    classes: Table | None
    operators: Table | None
    warnings: tuple[str, ...]


@dataclass(frozen=True)
class Failure:
    """A cell, or its timing at one batch size, that has an error instead of numbers."""

    title: str
    error: str
    traceback: str | None


def title(cell: Record) -> str:
    """`skipnet(target=0.5), cifar_resnet14 on digits, seed 0`."""
    return f"{place(cell)}, seed {cell.get('seed')}"


def place(cell: Record) -> str:
    """`skipnet(target=0.5), cifar_resnet14 on digits`."""
    return f"{cell.get('spec')}, {cell.get('backbone')} on {cell.get('dataset')}"


def detail(cell: Record) -> Detail:
    """What the record of a finished cell says."""
    paper = str(cell.get("paper") or "")
    facts = (
        ("parameters", n.significant(cell.get("params"))),
        ("top-1, test", n.percent(cell.get("top1"))),
        ("top-1, calibration", n.percent(cell.get("top1_calibration"))),
        ("top-1, routes exchanged", n.percent(cell.get("route_exchange_top1"))),
        ("per image: mean, p5, p50, p95, max", _spread(cell)),
        ("always run", n.both(cell.get("macs_always"))),
        ("with every unit on", n.both(cell.get("macs_full"))),
        ("routes", f"{cell.get('routes')} over {cell.get('images')} test images"),
        ("trained for", n.fixed(cell.get("train_seconds"), 1, " s")),
        ("key", str(cell["key"])),
    )
    uncounted = cell.get("uncounted_operators") or ()
    counted = (("operators without a known cost", ", ".join(uncounted)),) if uncounted else ()
    return Detail(
        title=title(cell),
        paper=paper,
        link=_link(paper),
        facts=(*facts, *spent_facts(cell), *counted, *resources(cell)),
        gates=gate_table(cell.get("gates") or ()),
        stages=stage_table(cell.get("stages") or ()),
        points=point_table(cell.get("points") or (), cell.get("macs_static")),
        streams=stream_table(cell.get("streams")),
        classes=class_table(cell.get("macs_by_class") or ()),
        operators=operator_table(cell.get("operators")),
        warnings=tuple(warnings_of(cell)),
    )


def _spread(cell: Record) -> str:
    names = ("macs", "macs_p5", "macs_p50", "macs_p95", "macs_max")
    return ", ".join(n.both(cell.get(name)) for name in names)


def _link(paper: str) -> str | None:
    """Where an arXiv number or a plain address leads; None for anything else."""
    if paper.startswith("arXiv:"):
        return f"https://arxiv.org/abs/{paper.removeprefix('arXiv:')}"
    return paper if paper.startswith("https://") else None


def warnings_of(cell: Record) -> list[str]:
    """What the cell's own record warns of, and the operators that nobody could price."""
    uncounted = cell.get("uncounted_operators") or ()
    names = ", ".join(map(str, uncounted))
    counted = [f"operators without a known cost ran and are not in the MACs: {names}"]
    return [*map(str, cell.get("warnings") or ()), *(counted if uncounted else ())]


def failures(reading: Reading, frame: pd.DataFrame) -> Iterable[Failure]:
    """Cells that failed, and batch sizes at which one could not be timed."""
    for cell in reading.cells:
        if cell.get("status") != "ok":
            error = cell.get("error") or "no error was recorded"
            yield Failure(title(cell), str(error), cell.get("traceback"))
    untimed = frame[(frame["status"] == "ok") & frame["error"].notna()]
    for _, row in untimed.iterrows():
        where = f"{title(row)}, timing at batch {row['batch_size']}"
        yield Failure(where, str(row["error"]), None)
