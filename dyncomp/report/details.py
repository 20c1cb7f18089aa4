"""One cell in full, and what went wrong in the cells that have no numbers."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from dyncomp.report import numbers as n
from dyncomp.report.extras import point_table, resources, stream_table
from dyncomp.report.gates import HeatMap, Picture, gate_table, heat_map, pictures
from dyncomp.report.plotdata import Curve, Curves
from dyncomp.report.reading import Reading
from dyncomp.report.spent import class_table, operator_table
from dyncomp.report.spent import facts as spent_facts
from dyncomp.report.table import mean_of_units, target_of
from dyncomp.report.tables import Table, stage_table
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
    heat: HeatMap | None
    gallery: tuple[Picture, ...]
    training: Curves | None
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


def detail(cell: CellRecord, images: pd.DataFrame | None) -> Detail:
    """What the record of a finished cell says; `images` is its per-image data, if there is any."""
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
        *_target(cell),
        ("routes", _routes(cell)),
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
        heat=heat_map(cell),
        gallery=tuple(pictures(cell, images)),
        training=training(cell),
        stages=stage_table(cell["stages"]),
        points=point_table(cell["points"], cell["macs_static"]),
        streams=stream_table(cell["streams"]),
        classes=class_table(cell["macs_by_class"]),
        operators=operator_table(cell.get("operators")),
        warnings=tuple(warnings_of(cell)),
    )


def _target(cell: CellRecord) -> Iterable[tuple[str, str]]:
    """What the method asks for, beside the shares that came out."""
    target = target_of(cell)
    if target is not None:
        share = n.fixed(100 * cell["macs"] / cell["macs_static"], 0, " %")
        text = f"{target:g}; reached: {share} of static's multiply-adds"
        rate = mean_of_units(cell["gates"], "rate_test")
        if rate is not None:
            text += f", a gate is on for {n.fixed(100 * rate, 0, ' %')} of the test images (mean)"
        yield "target", text


def _routes(cell: CellRecord) -> str:
    text = f"{cell['routes']} over {cell['images']} test images"
    if cell["routes_effective"] is not None and cell["routes"] > 1:
        text += f", as varied as {n.significant(cell['routes_effective'], 3)} equally frequent ones"
    if cell["class_p_value"] is not None:
        text += f"; that they follow the class: p = {n.significant(cell['class_p_value'], 1)}"
    return text


def training(cell: CellRecord) -> Curves | None:
    """Loss, share of the multiply-adds and rate of each gate's site, epoch by epoch; None of a cell without training.

    Rates are of a few training images, and about ten in a stage.
    """
    rows = [row for stage in cell["stages"] for row in stage["log"]]
    epochs = tuple(float(row[0] or 0) for row in rows)
    if len(epochs) < 2:
        return None
    curves = [Curve("loss", False, epochs, tuple(row[1] for row in rows))]
    curves.append(Curve("multiply-adds asked for, of the plain network's", True, epochs, tuple(row[2] for row in rows)))
    looks = [
        (float(at[0]), rates)
        for stage in cell["stages"]
        for at, rates in zip(stage.get("routes", ()), stage["rates"], strict=False)
    ]
    for site in dict.fromkeys(site for _, rates in looks for site in rates):
        known = [(epoch, rates[site]) for epoch, rates in looks if site in rates]
        curves.append(Curve(f"gate {site}", True, *map(tuple, zip(*known, strict=True))))
    begins, begin = [], 0.0
    for stage in cell["stages"]:
        begins.append((begin, stage["name"]))
        begin += stage["epochs"]
    return Curves(f"training-{cell['key']}", f"Training of {title(cell)}", tuple(curves), tuple(begins))


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
