"""The tables of a report: every cell a text for people and a value to sort by."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from dyncomp.report import numbers as n
from dyncomp.report.table import summary
from dyncomp.store.schema import StageRecord

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Cell:
    """What is written in a table's cell, and by which value a click on the header sorts it."""

    text: str
    sort: float | str


@dataclass(frozen=True)
class Table:
    """Headers, and rows of as many cells."""

    headers: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]


def results_table(frame: pd.DataFrame) -> Table:
    """The columns of `results.csv` that people compare; every row of it."""
    shown = [*_columns(frame)]
    share = 100 * frame["macs"] / frame["macs_static"].astype("Float64").astype(float)
    frame = frame.assign(share=share, interval=[_interval(row) for row in frame.iloc])
    rows = [
        tuple(Cell(write(row[name]), _sortable(row[name])) for _, name, write in shown) for _, row in frame.iterrows()
    ]
    return Table(tuple(header for header, _, _ in shown), tuple(rows))


def _interval(row: pd.Series) -> str:
    low, high = row["speedup_realised_low"], row["speedup_realised_high"]
    untold = row["role"] == "static" or n.missing(low)
    return n.MISSING if untold else f"{n.fixed(low, 2)} to {n.fixed(high, 2)}"


def _columns(frame: pd.DataFrame) -> Iterable[tuple[str, str, Any]]:
    """Header, column and how to write it; what is the same in all rows is said once elsewhere."""
    yield "method", "spec", str
    for name in ("dataset", "backbone", "seed", "budget", "device"):
        if frame[name].nunique() > 1:
            yield name, name, str
    yield "status", "status", str
    yield "top-1", "top1", n.percent
    yield "MACs", "macs", n.macs
    yield "FLOPs", "flops", n.macs
    yield "of static", "share", lambda value: n.fixed(value, 0, " %")
    yield "claimed", "speedup_claimed", n.ratio
    yield "executed", "speedup_executed", n.ratio
    yield "batch", "batch_size", lambda value: n.fixed(value, 0)
    yield "realised", "speedup_realised", n.ratio
    yield "95 % interval", "interval", str
    if frame["worth_it"].notna().any():
        yield "worth it", "worth_it", _or_missing
    yield "ms p50", "latency_ms_p50", n.significant
    yield "ms p90", "latency_ms_p90", n.significant
    yield "ms p99", "latency_ms_p99", n.significant
    yield "images/s", "images_per_s", n.significant
    for header, name in (("ratio", "speedup_verdict"), ("milliseconds", "verdict")):
        if frame[name].notna().any():  # records of former versions have no verdict about milliseconds
            yield header, name, _or_missing
    yield "routes", "routes", lambda value: n.fixed(value, 0)
    yield "parameters", "params", n.significant


def _or_missing(value: Any) -> str:
    return n.MISSING if n.missing(value) else str(value)


def _sortable(value: Any) -> float | str:
    if isinstance(value, str):
        return value
    return "" if n.missing(value) else float(value)


def summary_table(frame: pd.DataFrame) -> Table:
    """Mean and standard deviation over the seeds, one row per spec and batch size."""
    table = summary(frame)
    rows = [row_of(*_summarised(row, table)) for row in table.iloc]
    headers = ["method", *_telling(table), "seeds", "batch", "top-1", "MACs", "FLOPs", "claimed"]
    return Table((*headers, "executed", "realised", "ms p50"), tuple(rows))


def _telling(table: pd.DataFrame) -> list[str]:
    names = ("dataset", "backbone", "budget", "device")
    return [name for name in names if table[name].nunique() > 1]


def _summarised(row: pd.Series, table: pd.DataFrame) -> Iterable[tuple[str, Any]]:
    for name in ("spec", *_telling(table)):
        yield str(row[name]), str(row[name])
    for name in ("seeds", "batch_size"):
        yield n.fixed(row[name], 0), row[name]
    writers = {
        "top1": lambda value: n.fixed(value, 2),
        "macs": n.macs,
        "flops": n.macs,
        "speedup_claimed": n.ratio,
        "speedup_executed": n.ratio,
        "speedup_realised": n.ratio,
        "latency_ms_p50": n.significant,
    }
    for name, write in writers.items():
        mean, deviation = row[f"{name}_mean"], row[f"{name}_std"]
        spread = "" if n.missing(deviation) else f" ± {write(deviation)}"
        yield f"{write(mean)}{spread}", mean


def control_table(frame: pd.DataFrame) -> Table | None:
    """One row per method: static nets of equal cost, and what is left where rules decide in its gates' place."""
    methods = frame[(frame["role"] == "method") & (frame["status"] == "ok")]
    known = methods[[name for name in CONTROLS if name in methods]].notna().any(axis=1)
    timed = methods.loc[methods["over_static_at_equal_latency_points"].notna(), "batch_size"]
    sizes = sorted(int(size) for size in timed.unique())
    rows = [
        row_of(*_controlled(own, sizes)) for _, own in methods[known].groupby(list(_SETTING), sort=False, dropna=False)
    ]
    headers = ["method", "top-1", "MACs", "static at equal MACs", "above it"]
    headers += [f"above static of equal time, batch {size}" for size in sizes]
    headers += ["fixed: top-1", "MACs", "gain over it", "random: top-1", "MACs", "gain over it", "routes exchanged"]
    headers += ["gates", "on the front of MACs", "widens it by", "worth it"]
    return Table(tuple(headers), tuple(rows)) if rows else None


_SETTING = ("spec", "dataset", "backbone", "budget", "device")
CONTROLS = ("static_top1_at_equal_macs", "fixed_top1", "random_top1")


def _controlled(own: pd.DataFrame, batch_sizes: Sequence[int]) -> Iterable[tuple[str, Any]]:
    cells = own.drop_duplicates("key")
    yield str(cells["spec"].iloc[0]), str(cells["spec"].iloc[0])
    yield from ((write(cells[name].mean()), cells[name].mean()) for name, write in (("top1", _two), ("macs", n.macs)))
    yield _two(cells["static_top1_at_equal_macs"].iloc[0]), cells["static_top1_at_equal_macs"].iloc[0]
    yield _gain(cells, "static_at_equal_macs")
    for size in batch_sizes:
        timed = own[own["batch_size"] == size]
        yield (n.MISSING, None) if timed.empty else _gain(timed, "static_at_equal_latency")
    for control in ("fixed", "random"):
        for name, write in ((f"{control}_top1", _two), (f"{control}_macs", n.macs)):
            yield write(cells[name].iloc[0]), cells[name].iloc[0]
        yield _gain(cells, control)
    yield _two(cells["route_exchange_top1"].mean()), cells["route_exchange_top1"].mean()
    yield _or_missing(cells["gates_look"].iloc[0]), cells["gates_look"].iloc[0]
    yield n.fixed(100 * cells["on_front_macs"].iloc[0], 0, " %"), cells["on_front_macs"].iloc[0]
    low, middle, high = (cells[f"hypervolume_macs_percent{end}"].iloc[0] for end in ("_low", "", "_high"))
    widened = f"{n.fixed(middle, 1)} % ({n.fixed(low, 1)} to {n.fixed(high, 1)})"
    yield n.MISSING if n.missing(middle) else widened, middle
    yield _or_missing(cells["worth_it"].iloc[0]), cells["worth_it"].iloc[0]


def _two(value: Any) -> str:
    return n.fixed(value, 2)


def _gain(cells: pd.DataFrame, over: str) -> tuple[str, Any]:
    points, margin = (cells[f"over_{over}_{name}"].iloc[0] for name in ("points", "margin"))
    text = n.MISSING if n.missing(points) else f"{points:+.2f} ± {margin:.2f}"
    return text, points


def stage_table(stages: Sequence[StageRecord]) -> Table | None:
    """One row per stage of training."""
    rows = [
        row_of(
            (stage["name"], stage["name"]),
            (n.plain(stage["epochs"]), stage["epochs"]),
            (n.significant(stage["loss_first"]), stage["loss_first"]),
            (n.significant(stage["loss_last"]), stage["loss_last"]),
            (n.fixed(stage["seconds"], 1), stage["seconds"]),
        )
        for stage in stages
    ]
    headers = ("stage", "epochs", "first loss", "last loss", "seconds")
    return Table(headers, tuple(rows)) if rows else None


def both(macs: float | None) -> Iterable[tuple[str, Any]]:
    """Two cells: multiply-adds, and FLOPs, which are twice that."""
    yield n.macs(macs), macs
    flops = None if macs is None else 2 * macs
    yield n.macs(flops), flops


def row_of(*cells: tuple[str, Any]) -> tuple[Cell, ...]:
    """A table's row out of texts and the values to sort by."""
    return tuple(Cell(text, _sortable(value)) for text, value in cells)
