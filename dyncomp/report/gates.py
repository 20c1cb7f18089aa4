"""What gates decide, one by one and class by class, and the images on which least and most is spent."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from dyncomp.report import numbers as n
from dyncomp.report.spent import MOST_CLASSES
from dyncomp.report.tables import Table, both, row_of
from dyncomp.store.schema import CellRecord, GateRecord

if TYPE_CHECKING:
    import pandas as pd

MOST_UNITS = 60
"""units of a route up to which it is written beside an image"""


def gate_table(gates: Sequence[GateRecord]) -> Table | None:
    """One row per gate: how often it is on, what it decides about, what is wrong with it."""
    headers = ("site", "unit", "on (test)", "on (calibration)", "unit MACs", "unit FLOPs", "gate MACs", "gate FLOPs")
    rows = [row_of(*_gate(gate)) for gate in gates]
    return Table((*headers, "image (bits)", "class (bits)", "flag"), tuple(rows)) if rows else None


def _gate(gate: GateRecord) -> Iterable[tuple[str, Any]]:
    yield gate["site"], gate["site"]
    many = gate["units"] > 1
    yield (f"{gate['units']} units, means" if many else str(gate["unit"])), -1 if many else gate["unit"]
    for rate in (gate["rate_test"], gate["rate_calibration"]):
        yield n.fixed(100 * rate, 1, " %"), rate
    yield from (*both(gate["unit_macs"]), *both(gate["overhead_macs"]))
    yield from ((n.fixed(gate[name], 3), gate[name]) for name in ("input_dependence", "class_information"))
    flag = _flag(gate)
    yield flag, flag


def _flag(gate: GateRecord) -> str:
    """Whether the gate never varies, and on which split; for many units how many do not."""
    if gate["units"] > 1:
        counts = ((gate["always_on"], "always on"), (gate["always_off"], "always off"))
        return ", ".join(f"{count} {state}" for count, state in counts if count)
    stuck = {0.0: "always off", 1.0: "always on"}
    test, calibration = (stuck.get(rate, "") for rate in (gate["rate_test"], gate["rate_calibration"]))
    if test == calibration:
        return test
    splits = ((test, "test"), (calibration, "calibration"))
    return ", ".join(f"{state} ({split})" for state, split in splits if state)


@dataclass(frozen=True)
class HeatMap:
    """Shares from 0 to 1 by class: a row's label and a text and a depth of colour for each class."""

    classes: tuple[str, ...]
    rows: tuple[tuple[str, tuple[tuple[str, float], ...]], ...]


def heat_map(cell: CellRecord) -> HeatMap | None:
    """How often each gate is on for each class, in percent, or the weight of each unit of a mixture.

    Weights are coloured as shares of the site's greatest one. None without gates, and where the classes are too many to
    stand side by side.
    """
    classes = tuple(one["class"] for one in cell["macs_by_class"])
    if not 1 < len(classes) <= MOST_CLASSES:
        return None
    rows = [(_label(gate), _percent(gate["by_class"])) for gate in cell["gates"]]
    for site in dict.fromkeys(unit["site"] for unit in cell["mixtures"]):
        units = [unit for unit in cell["mixtures"] if unit["site"] == site]
        greatest = max(max(unit["by_class"]) for unit in units) or 1.0
        for unit in units:
            shown = tuple((n.fixed(weight, 2), max(0.0, weight / greatest)) for weight in unit["by_class"])
            rows.append((f"{site} unit {unit['unit']}, weight", shown))
    known = tuple(row for row in rows if len(row[1]) == len(classes))  # records of former versions have none
    return HeatMap(classes, known) if known else None


def _label(gate: GateRecord) -> str:
    return f"{gate['site']}, {gate['units']} units" if gate["units"] > 1 else f"{gate['site']} unit {gate['unit']}"


def _percent(shares: Sequence[float]) -> tuple[tuple[str, float], ...]:
    return tuple((n.fixed(100 * share, 0), share) for share in shares)


@dataclass(frozen=True)
class Picture:
    """A test image of the gallery: what stands below it, and the file."""

    end: str
    text: str
    right: bool
    png: str


def pictures(cell: CellRecord, images: pd.DataFrame | None) -> Iterator[Picture]:
    """The cheapest test images, then the dearest, with what they cost and which way they went."""
    for one in cell["gallery"]:
        right = one["label"] == one["prediction"]
        answered = one["label"] if right else f"{one['label']}, answered {one['prediction']}"
        route = "" if images is None else str(images["route"].iloc[one["image"]])
        way = f", route {route}" if 0 < len(route) <= MOST_UNITS else ""
        yield Picture(one["end"], f"{n.both(one['macs'])}: {answered}{way}", right, one["png"])
