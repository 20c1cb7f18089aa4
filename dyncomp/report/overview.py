"""One row per network of a setting, all seeds of it: what the terminal shows last, and the page first."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from dyncomp.report import numbers as n
from dyncomp.report.controls import RUNG, Network, Setting
from dyncomp.report.statistics import Difference
from dyncomp.report.tables import Table, row_of
from dyncomp.samples import is_invalid

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Time:
    """A network's time at a batch size: milliseconds, and how much faster than static; `valid`: in every seed."""

    ms: float
    ratio: float
    valid: bool


@dataclass(frozen=True)
class Row:
    """A network of a setting; `over` is its accuracy less static's, None of static itself."""

    network: Network
    role: str
    over: Difference | None
    macs_ratio: float | None
    times: Mapping[int, Time]
    gates: str
    worth: str

    @property
    def over_static(self) -> str:
        """`over` for people: `-0.4 ± 0.4` points; "" of static itself."""
        return "" if self.over is None else f"{n.points(self.over.points)} ± {n.fixed(self.over.margin, 1)}"


def overview(setting: Setting) -> list[Row]:
    """The plain backbone, then methods and static nets of other sizes, the most accurate first."""
    rows = setting.rows
    shown = rows[(rows["role"] != "control") | (rows["method"] == RUNG)]
    statics = shown.loc[shown["role"] == "static", "spec"]
    static = setting.networks[str(statics.iloc[0])] if len(statics) else None
    found = [_row(setting, static, own) for _, own in shown.groupby("spec", sort=False)]
    return sorted(found, key=lambda row: (row.role != "static", -row.network.top1))


def _row(setting: Setting, static: Network | None, own: pd.DataFrame) -> Row:
    first = own.iloc[0]
    network = setting.networks[str(first["spec"])]
    timed = own[own["latency_ms_p50"].notna()]
    return Row(
        network,
        str(first["role"]),
        None if static is None or network is static else setting.over(network.spec, static),
        None if static is None else network.macs / static.macs,
        {int(size): _time(rows) for size, rows in timed.groupby("batch_size")},
        "" if n.missing(first["gates_look"]) else str(first["gates_look"]),
        "" if n.missing(first["worth_it"]) else str(first["worth_it"]),
    )


def _time(rows: pd.DataFrame) -> Time:
    valid = not rows["speedup_verdict"].map(is_invalid).any()
    return Time(float(rows["latency_ms_p50"].mean()), float(rows["speedup_realised"].mean()), valid)


def written(time: Time | None, is_static: bool) -> str:
    """Milliseconds of static, how much faster any other is; in brackets where some seed's ratio is not VALID."""
    if time is None:
        return ""
    if is_static:
        return f"{n.significant(time.ms)} ms"
    return n.ratio(time.ratio) if time.valid else f"({n.ratio(time.ratio)})"


def overview_table(found: Sequence[Setting]) -> Table:
    """All settings in one table for the page; what differs between them has columns."""
    several = [
        name for name in ("dataset", "backbone", "budget", "device") if len({_value(s, name) for s in found}) > 1
    ]
    sizes = sorted({size for setting in found for size in setting.batch_sizes})
    headers = ["method", "worth it", *several, "top-1", "over static", "MACs"]
    headers += [f"batch {size}" for size in sizes] + ["gates"]
    rows = [
        row_of(*_cells(row, [_value(setting, name) for name in several], sizes))
        for setting in found
        for row in overview(setting)
    ]
    return Table(tuple(headers), tuple(rows))


def _value(setting: Setting, name: str) -> str:
    return str(setting.rows[name].iloc[0])


def _cells(row: Row, setting: Iterable[str], sizes: Sequence[int]) -> Iterator[tuple[str, Any]]:
    network, is_static = row.network, row.role == "static"
    yield network.spec, network.spec
    yield row.worth, row.worth
    yield from ((text, text) for text in setting)
    yield n.fixed(network.top1, 2), network.top1
    yield row.over_static, None if row.over is None else row.over.points
    share = None if is_static or row.macs_ratio is None else 100 * row.macs_ratio
    yield n.macs(network.macs) if share is None else n.fixed(share, 0, " %"), network.macs
    for size in sizes:
        time = row.times.get(size)
        yield written(time, is_static), None if time is None else 1 / time.ratio
    yield row.gates, row.gates
