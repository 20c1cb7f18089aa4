"""The tidy table: one row per cell and batch size."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from dyncomp.report import latency
from dyncomp.report.controls import OVER, columns, settings
from dyncomp.report.numbers import missing
from dyncomp.report.reading import Reading
from dyncomp.report.worth import worth_of
from dyncomp.store.schema import CellRecord

if TYPE_CHECKING:
    import pandas as pd

LABELS = ("method", "spec", "backbone", "dataset", "seed", "budget", "device", "status")
COLUMNS = (
    *LABELS,
    *("params", "top1", "macs", "flops", "macs_static", "speedup_claimed", "speedup_executed"),
    *("batch_size", "latency_ms_p50", "latency_ms_p99", "images_per_s", "speedup_realised"),
    *("images", "macs_std", "macs_p5", "macs_p50", "macs_p95", "macs_max", "macs_full"),
    *("executed_macs_per_image", "latency_ms_p90", "latency_ms_p50_low", "latency_ms_p50_high"),
    *("speedup_realised_low", "speedup_realised_high", "verdict", "speedup_verdict"),
    *("routes", "gates", "gates_always_on", "gates_always_off"),
    *("route_exchange_top1", "top1_calibration", "train_seconds", "rounds"),
    *("params_mib", "memory_mib_inference", "activation_mib", "memory_batch_size"),
    *("memory_mib_training", "memory_batch_size_training", "energy_j_per_image", "energy_batch_size"),
    *("macs_right", "macs_wrong", "macs_difficulty_rank_correlation", "time_share_free", "time_share_unknown"),
    *("form", "latency_ms_p50_dense", "speedup_realised_dense"),
    *("latency_ms_p50_compiled", "speedup_realised_compiled", "graph_breaks", "not_compiled"),
    *("static_top1_at_equal_macs", "static_top1_at_equal_latency"),
    *("fixed_top1", "fixed_macs", "random_top1", "random_macs"),
    *(f"over_{name}_{what}" for name in OVER for what in ("points", "margin", "q")),
    *("worth_it", "sentence", "role", "control_of", "warnings", "error", "key"),
)
COUNTS = (
    *("seed", "params", "batch_size", "images", "routes", "gates"),
    *("gates_always_on", "gates_always_off", "rounds", "macs_max", "macs_full", "macs_static", "graph_breaks"),
    *("memory_batch_size", "memory_batch_size_training", "energy_batch_size"),
)
TEXTS = (*(name for name in LABELS if name != "seed"), "role", "control_of", "verdict", "form", "not_compiled")
TEXTS += ("speedup_verdict", "worth_it", "sentence", "warnings", "error", "key")
SUMMARISED = (
    *("top1", "macs", "flops", "speedup_claimed", "speedup_executed"),
    *("latency_ms_p50", "latency_ms_p99", "images_per_s", "speedup_realised"),
)
ROLES = {"static": 0, "method": 1, "control": 2}
"""in which order they stand"""
GROUP = ("method", "spec", "backbone", "dataset", "budget", "device", "role", "batch_size")


def results_of(reading: Reading) -> pd.DataFrame:
    """One row per cell and batch size, the columns of `COLUMNS`; units stand in the names.

    `macs` is the mean per test image, gates included; `flops = 2 * macs`; `latency_ms_*` are per
    batch of that `batch_size`; `speedup_realised` is the median over rounds of static's time by
    the method's on the same batches, with a 95 % bootstrap interval; `verdict` says whether the
    milliseconds can be relied on, `speedup_verdict` whether that ratio can. They are of the sparse
    form, and for static of the faster of that and compiled: `form` says which. Other forms timed in
    the same rounds have columns of their own.
    `time_share_free` and `time_share_unknown` are from 0 to 1, of the time in operators. A cell that
    was not timed has one row without latency; a failed one has its error. What controls say of a method is the mean
    over its seeds: `over_..._points` is by how much it is better, with a 95 % margin, and `over_..._q` the share of
    false ones among such differences that are as sure; `worth_it` is yes, no or unclear (see `worth_of`). `sentence`
    is left empty here: `results` has it.
    """
    import pandas as pd

    rows = [row for cell in reading.cells for row in _rows(cell, reading)]
    frame = pd.DataFrame(sorted(rows, key=_place), columns=list(COLUMNS))
    for name in COLUMNS:
        if name not in TEXTS:
            frame[name] = pd.to_numeric(frame[name])
        if name in COUNTS:
            frame[name] = frame[name].round().astype("Int64")
    for name in ("worth_it", "sentence"):
        frame[name] = frame[name].astype(object)  # of nothing but missing values, they would be numbers
    # what controls say of a method is a mean over its seeds, and stands in all of its rows
    for setting in settings(reading, frame):
        methods = setting.rows[setting.rows["role"] == "method"]
        for (spec, size), rows in methods.groupby(["spec", "batch_size"], dropna=False):
            for name, value in columns(setting, str(spec), None if missing(size) else int(size)).items():
                frame.loc[rows.index, name] = value
    for setting in settings(reading, frame):  # anew: the verdict follows from those columns
        methods = setting.rows[setting.rows["role"] == "method"]
        for spec, rows in methods.groupby("spec"):
            worth = worth_of(setting, str(spec))
            frame.loc[rows.index, "worth_it"] = None if worth is None else worth.mark
    return frame


def _place(row: Mapping[str, Any]) -> tuple[Any, ...]:
    """Where a row stands: static first, controls last, then by name, so that no order of running shows."""
    setting = (str(row["dataset"]), str(row["backbone"]), str(row["budget"]), str(row["device"]))
    named = (ROLES.get(row["role"], 1), str(row["method"]), str(row["spec"]), row["seed"] or 0)
    return (*setting, *named, row.get("batch_size") or 0)


def _rows(cell: CellRecord, reading: Reading) -> list[dict[str, Any]]:
    shared = _copied(cell, (*LABELS, "role", "control_of", "error", "key"))
    shared["warnings"] = "; ".join(cell["warnings"]) or None
    if cell["status"] != "ok":
        return [shared]
    gates, operators = cell["gates"], cell.get("operators")
    shared |= _copied(cell, [name for name in COLUMNS if name not in TEXTS]) | {
        "flops": 2 * cell["macs"],
        "executed_macs_per_image": cell["executed_macs"] / cell["images"],
        "time_share_free": operators["shares"]["free"] if operators else None,
        "time_share_unknown": operators["shares"]["unknown"] if operators else None,
        "gates": sum(gate["units"] for gate in gates),
        "gates_always_on": sum(gate["always_on"] for gate in gates),
        "gates_always_off": sum(gate["always_off"] for gate in gates),
    }
    found = latency.timed(cell["key"], reading.timings, reading.statics)
    return [
        shared
        | {"batch_size": timing.batch_size, **latency.columns(timing)}
        | ({"error": timing.error} if timing.error else {})
        for timing in found
    ] or [shared]


def _copied(cell: Mapping[str, Any], names: Iterable[str]) -> dict[str, Any]:
    return {name: cell[name] for name in names if name in cell}


def summary(frame: pd.DataFrame) -> pd.DataFrame:
    """Mean and sample standard deviation over the seeds, a row per spec, setting and batch size.

    `seeds` says how many; `..._std` is NaN for one. Failed cells are left out.
    """
    done = frame[frame["status"] == "ok"]
    groups = done.groupby(list(GROUP), dropna=False, sort=False)
    table = groups.agg(
        seeds=("key", "nunique"),
        **{f"{name}_mean": (name, "mean") for name in SUMMARISED},
        **{f"{name}_std": (name, "std") for name in SUMMARISED},
    )
    ordered = [f"{name}_{what}" for name in SUMMARISED for what in ("mean", "std")]
    return table.reset_index()[[*GROUP, "seeds", *ordered]]


def csv_text(frame: pd.DataFrame) -> str:
    """The table as CSV: counts and MACs in full, everything else to 6 significant digits."""
    import pandas as pd

    written = {
        name: pd.Series([_written(name, value) for value in frame[name]], dtype=object) for name in frame.columns
    }
    return str(pd.DataFrame(written).to_csv(index=False, lineterminator="\n"))


def _written(name: str, value: Any) -> Any:
    if missing(value) or isinstance(value, str):
        return None if missing(value) else value
    if name in COUNTS:
        return int(value)
    number = float(value)
    if name == "flops" or ("macs" in name and "correlation" not in name):
        return int(number) if number == int(number) else round(number, 3)
    return f"{number:.6g}"
