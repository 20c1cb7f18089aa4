"""One cell in full, and what went wrong in the cells that have no numbers."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from dyncomp.report import numbers as n
from dyncomp.report.extras import point_table, resources, stream_table
from dyncomp.report.reading import Reading
from dyncomp.report.spent import class_table, operator_table
from dyncomp.report.spent import facts as spent_facts
from dyncomp.report.tables import Table, gate_table, stage_table
from dyncomp.store.schema import CellRecord

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


def title(cell: CellRecord) -> str:
    """`skipnet(target=0.5), cifar_resnet14 on digits, seed 0`."""
    return f"{place(cell)}, seed {cell['seed']}"


def place(cell: CellRecord) -> str:
    """`skipnet(target=0.5), cifar_resnet14 on digits`."""
    return f"{cell['spec']}, {cell['backbone']} on {cell['dataset']}"


def detail(cell: CellRecord) -> Detail:
    """What the record of a finished cell says."""
    paper = cell["paper"]
    link = paper if paper.startswith("https://") else None
    if paper.startswith("arXiv:"):
        link = f"https://arxiv.org/abs/{paper.removeprefix('arXiv:')}"
    spread = (cell["macs"], cell["macs_p5"], cell["macs_p50"], cell["macs_p95"], cell["macs_max"])
    facts = (
        ("parameters", n.significant(cell["params"])),
        ("top-1, test", n.percent(cell["top1"])),
        ("top-1, calibration", n.percent(cell["top1_calibration"])),
        ("top-1, routes exchanged", n.percent(cell["route_exchange_top1"])),
        ("per image: mean, p5, p50, p95, max", ", ".join(map(n.both, spread))),
        ("always run", n.both(cell["macs_always"])),
        ("with every unit on", n.both(cell["macs_full"])),
        ("routes", f"{cell['routes']} over {cell['images']} test images"),
        ("trained for", n.fixed(cell["train_seconds"], 1, " s")),
        ("key", cell["key"]),
    )
    uncounted = cell["uncounted_operators"]
    counted = (("operators without a known cost", ", ".join(uncounted)),) if uncounted else ()
    return Detail(
        title=title(cell),
        paper=paper,
        link=link,
        facts=(*facts, *spent_facts(cell), *counted, *resources(cell)),
        gates=gate_table(cell["gates"]),
        stages=stage_table(cell["stages"]),
        points=point_table(cell["points"], cell["macs_static"]),
        streams=stream_table(cell["streams"]),
        classes=class_table(cell["macs_by_class"]),
        operators=operator_table(cell.get("operators")),
        warnings=tuple(warnings_of(cell)),
    )


def warnings_of(cell: CellRecord) -> list[str]:
    """What the cell's own record warns of, and the operators that nobody could price."""
    uncounted = cell["uncounted_operators"]
    names = ", ".join(uncounted)
    counted = [f"operators without a known cost ran and are not in the MACs: {names}"]
    return [*cell["warnings"], *(counted if uncounted else ())]


def failures(reading: Reading, frame: pd.DataFrame) -> Iterable[Failure]:
    """Cells that failed, and batch sizes at which one could not be timed."""
    for cell in reading.cells:
        if cell["status"] != "ok":
            yield Failure(title(cell), cell["error"] or "no error was recorded", cell["traceback"])
    untimed = frame[(frame["status"] == "ok") & frame["error"].notna()]
    for _, row in untimed.iterrows():
        where = f"{title(row)}, timing at batch {row['batch_size']}"
        yield Failure(where, str(row["error"]), None)
