"""The tidy table: one row per cell and batch size."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

from dyncomp.report import latency
from dyncomp.report.controls import OVER, Setting, columns, settings
from dyncomp.report.looks import agreement_between_seeds, looks_of
from dyncomp.report.numbers import missing
from dyncomp.report.pareto import Pareto, pareto, resampled_accuracies
from dyncomp.report.reading import Reading
from dyncomp.report.worth import worth_of
from dyncomp.store.schema import CellRecord, GateRecord

if TYPE_CHECKING:
    import pandas as pd

LABELS = ("method", "spec", "backbone", "dataset", "seed", "budget", "device", "status")
HYPERVOLUME = ("percent", "percent_low", "percent_high")
COLUMNS = (
    *LABELS,
    *("params", "top1", "macs", "flops", "macs_static", "speedup_claimed", "speedup_executed"),
    *("batch_size", "latency_ms_p50", "latency_ms_p99", "images_per_s", "speedup_realised"),
    *("target", "image_size", "images", "macs_std", "macs_p5", "macs_p50", "macs_p95", "macs_max", "macs_full"),
    *("executed_macs_per_image", "latency_ms_p90", "latency_ms_p50_low", "latency_ms_p50_high"),
    *("speedup_realised_low", "speedup_realised_high", "verdict", "speedup_verdict"),
    *("routes", "routes_effective", "routes_class_p", "routes_agreement"),
    *("gates", "gates_always_on", "gates_always_off", "gates_image_bits", "gates_class_bits", "gates_look"),
    *("route_exchange_top1", "top1_calibration", "train_seconds", "rounds"),
    *("params_mib", "memory_mib_inference", "activation_mib", "memory_batch_size"),
    *("memory_mib_training", "memory_batch_size_training", "energy_j_per_image", "energy_batch_size"),
    *("macs_right", "macs_wrong", "macs_difficulty_rank_correlation", "time_share_free", "time_share_unknown"),
    *("form", "latency_ms_p50_dense", "speedup_realised_dense"),
    *("latency_ms_p50_compiled", "speedup_realised_compiled", "graph_breaks", "not_compiled"),
    *("static_top1_at_equal_macs", "static_top1_at_equal_latency"),
    *("fixed_top1", "fixed_macs", "random_top1", "random_macs"),
    *(f"over_{name}_{what}" for name in OVER for what in ("points", "margin", "q")),
    *("better_than_fixed", "better_than_random"),
    *("on_front_macs", *(f"hypervolume_macs_{what}" for what in HYPERVOLUME)),
    *("on_front_latency", *(f"hypervolume_latency_{what}" for what in HYPERVOLUME)),
    *("worth_it", "sentence", "role", "control_of", "warnings", "error", "key"),
)
COUNTS = (
    *("seed", "params", "batch_size", "image_size", "images", "routes", "gates"),
    *("gates_always_on", "gates_always_off", "rounds", "macs_max", "macs_full", "macs_static", "graph_breaks"),
    *("memory_batch_size", "memory_batch_size_training", "energy_batch_size"),
)
TEXTS = (*(name for name in LABELS if name != "seed"), "role", "control_of", "verdict", "form", "not_compiled")
JUDGED = ("gates_look", "better_than_fixed", "better_than_random", "worth_it", "sentence")
"""texts that follow from the records of several cells"""
TEXTS += ("speedup_verdict", *JUDGED, "warnings", "error", "key")
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
    `target` is the method's hyperparameter of that name, if it has one: what it asks for, in its own terms.
    `time_share_free` and `time_share_unknown` are from 0 to 1, of the time in operators. A cell that
    was not timed has one row without latency; a failed one has its error. What controls say of a method is the mean
    over its seeds: `over_..._points` is by how much it is better, with a 95 % margin, and `over_..._q` the share of
    false ones among such differences that are as sure; `better_than_...` and `worth_it` are yes, no or unclear (see
    `worth_of`). `on_front_...` and `hypervolume_...` are those of `Pareto`, of latency at the row's batch size. Of the
    gates: `gates_image_bits` and `gates_class_bits` are the mutual information of image or class and decision, mean of
    the units; `routes_class_p` is from a permutation test (`class_information`), `routes_agreement` Cohen's kappa
    between seeds, `gates_look` the verdict of `looks_of`. `sentence` is left empty here: `results` has it.
    """
    import pandas as pd

    rows = [row for cell in reading.cells for row in _rows(cell, reading)]
    frame = pd.DataFrame(sorted(rows, key=_place), columns=list(COLUMNS))
    for name in COLUMNS:
        if name not in TEXTS:
            frame[name] = pd.to_numeric(frame[name])
        if name in COUNTS:
            frame[name] = frame[name].round().astype("Int64")
    for name in JUDGED:
        frame[name] = frame[name].astype(object)  # of nothing but missing values, they would be numbers
    for setting in settings(reading, frame):
        for rows, found in _of_several_cells(setting):
            for name, value in found.items():
                frame.loc[rows.index, name] = value
    for setting in settings(reading, frame):  # anew: the verdict follows from those columns
        methods = setting.rows[setting.rows["role"] == "method"]
        for spec, rows in methods.groupby("spec"):
            worth = worth_of(setting, str(spec))
            frame.loc[rows.index, "worth_it"] = None if worth is None else worth.mark
    return frame


def _of_several_cells(setting: Setting) -> Iterator[tuple[pd.DataFrame, dict[str, Any]]]:
    """Rows, and the columns that all of them share: what is known of a network by all its seeds and its controls."""
    accuracies = resampled_accuracies(setting)
    fronts = {size: pareto(setting, accuracies, size) for size in (None, *setting.batch_sizes)}
    for (spec, size), rows in setting.rows.groupby(["spec", "batch_size"], dropna=False):
        at = None if missing(size) else int(size)
        for cost, batch_size in (("macs", None), ("latency", at)):
            if cost == "macs" or batch_size is not None:
                yield rows, _on_front(fronts[batch_size], str(spec), cost)
        if rows["role"].iloc[0] == "method":
            yield rows, columns(setting, str(spec), at)
    for _, rows in setting.rows.groupby("spec"):
        cells = rows.drop_duplicates("key")
        if (looks := looks_of(cells)) is not None:
            yield rows, {"gates_look": looks.mark}
            if rows["role"].iloc[0] == "method":  # how controls decide does not follow from their training
                yield rows, {"routes_agreement": agreement_between_seeds(setting.reading, list(cells["key"]))}


def _on_front(front: Pareto, spec: str, cost: str) -> dict[str, Any]:
    found: dict[str, Any] = {f"on_front_{cost}": front.on_front.get(spec)}
    if (added := front.hypervolume.get(spec)) is not None:
        ends = zip(HYPERVOLUME, (added.middle, added.low, added.high), strict=True)
        found |= {f"hypervolume_{cost}_{what}": value for what, value in ends}
    return found


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
        "target": target_of(cell),
        "flops": 2 * cell["macs"],
        "executed_macs_per_image": cell["executed_macs"] / cell["images"],
        "time_share_free": operators["shares"]["free"] if operators else None,
        "time_share_unknown": operators["shares"]["unknown"] if operators else None,
        "routes_class_p": cell["class_p_value"],
        "gates_image_bits": mean_of_units(gates, "input_dependence"),
        "gates_class_bits": mean_of_units(gates, "class_information"),
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


def target_of(cell: CellRecord) -> float | None:
    """What a method asks for by its hyperparameter `target`, in its own terms; None of one without such a number."""
    value = cell["hyperparameters"].get("target")
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def mean_of_units(
    gates: Sequence[GateRecord], name: Literal["rate_test", "input_dependence", "class_information"]
) -> float | None:
    """Mean over the units of all gates; None where one is not known, or there is none."""
    units = sum(gate["units"] for gate in gates)
    if not units or any(gate[name] is None for gate in gates):
        return None
    return sum(gate["units"] * (gate[name] or 0.0) for gate in gates) / units


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
