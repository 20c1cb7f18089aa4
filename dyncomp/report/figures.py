"""The data of every plot, from the table and the records."""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dyncomp.report import numbers as n
from dyncomp.report.controls import RUNG
from dyncomp.report.plotdata import Bars, Figure, Histogram, Panel, Point, Row, Scatter, Series
from dyncomp.report.reading import Reading
from dyncomp.report.table import summary

if TYPE_CHECKING:
    import pandas as pd

BINS = 40
LADDERS = (Path(__file__).with_name("ladders"), Path(__file__).parents[2] / "baselines/ladders")
"""where an installed package has the curves of static nets, and where a checkout has them"""
TOP1 = "top-1 accuracy on test images, %"


def figures(reading: Reading, frame: pd.DataFrame) -> list[Figure]:
    """All plots of a folder: one set for each pair of data set and backbone."""
    done = frame[frame["status"] == "ok"]
    groups = list(done.groupby(["dataset", "backbone"], sort=True))
    drawn: list[Figure | None] = []
    for (dataset, backbone), rows in groups:
        suffix = f"-{slug(dataset)}-{slug(backbone)}" if len(groups) > 1 else ""
        setting = _setting(rows)
        compared = rows[rows["role"] != "control"]
        drawn.append(_accuracy_macs(rows, suffix, setting))
        drawn.append(_accuracy_latency(rows, suffix, setting))
        drawn.append(_speedup(compared, suffix, setting))
        drawn.append(_histogram(compared, suffix, setting, reading))
    return [figure for figure in drawn if figure is not None]


def slug(text: str) -> str:
    """A name fit for a file: `mobilenet_v1(width=0.5)` becomes `mobilenet_v1-width-0.5`."""
    return re.sub(r"[^0-9A-Za-z._]+", "-", text).strip("-")


def _setting(rows: pd.DataFrame) -> str:
    columns = ("dataset", "backbone", "budget", "device")
    dataset, backbone, budget, device = ("/".join(sorted(set(rows[name]))) for name in columns)
    seeds = rows["seed"].nunique()
    spread = f", {seeds} seeds" if seeds > 1 else ""
    return f"{backbone} on {dataset}, budget {budget}, {device}{spread}"


def labeller(rows: pd.DataFrame) -> Callable[[Any], str]:
    """What a row is called: its spec, with what else differs among the rows."""
    telling = [name for name in ("budget", "device") if rows[name].nunique() > 1]

    def label(row: Any) -> str:
        return ", ".join([str(row["spec"]), *(str(row[name]) for name in telling)])

    return label


def _points(rows: pd.DataFrame, x: str, scale: float) -> tuple[Point, ...]:
    label = labeller(rows)
    table = summary(rows[rows["role"] != "control"])
    table = table[table[f"{x}_mean"].notna() & table["top1_mean"].notna()]
    return tuple(
        Point(
            label=label(row),
            method=row["method"],
            static=row["role"] == "static",
            x=float(row[f"{x}_mean"]) / scale,
            y=float(row["top1_mean"]),
            x_std=float(row[f"{x}_std"]) / scale,
            y_std=float(row["top1_std"]),
        )
        for _, row in table.iterrows()
    )


def _ladder(rows: pd.DataFrame, x: str, scale: float) -> tuple[tuple[float, float], ...]:
    """Static nets of several sizes, static itself among them; none where there is no other."""
    table = summary(rows[(rows["role"] == "static") | (rows["method"] == RUNG)])
    known = table[table[f"{x}_mean"].notna() & table["top1_mean"].notna()].sort_values(f"{x}_mean")
    points = zip(known[f"{x}_mean"] / scale, known["top1_mean"], strict=True)
    own = tuple((float(at), float(top1)) for at, top1 in points) if len(known) > 1 else ()
    return own or (_kept_ladder(rows, scale) if x == "macs" else ())


def _kept_ladder(rows: pd.DataFrame, scale: float) -> tuple[tuple[float, float], ...]:
    """That of `baselines/ladders` for the same data set, backbone and budget, if there is one."""
    named = {"-".join(str(row[name]) for name in ("dataset", "backbone", "budget")) for _, row in rows.iterrows()}
    files = [folder / f"{slug(name)}.csv" for name in named for folder in LADDERS]
    file = next((file for file in files if file.is_file()), None)
    if file is None or len(named) > 1:
        return ()
    with file.open(encoding="utf-8", newline="") as text:
        return tuple((float(row["macs"]) / scale, float(row["top1"])) for row in csv.DictReader(text))


def _accuracy_macs(rows: pd.DataFrame, suffix: str, setting: str) -> Scatter | None:
    cells = rows.drop_duplicates("key").assign(batch_size=0)
    scale, unit = n.macs_unit(float(cells["macs"].max()))
    points = _points(cells, "macs", scale)
    panel = Panel("", f"{unit} per image (mean over test images)", points, _ladder(cells, "macs", scale))
    title = "Accuracy against multiply-adds"
    return Scatter(f"accuracy_macs{suffix}", title, setting, TOP1, (panel,)) if points else None


def _accuracy_latency(rows: pd.DataFrame, suffix: str, setting: str) -> Scatter | None:
    what = "ms per batch (median)"
    if rows["speedup_realised"].notna().any():
        # milliseconds vary with the machine from one timing to the next, and paired ratios do not
        what = "time per batch, as a share of static's"
        rows = rows.assign(latency_ms_p50=1 / rows["speedup_realised"])
    panels = [
        Panel(
            f"batch of {size}",
            what,
            _points(group, "latency_ms_p50", 1.0),
            _ladder(group, "latency_ms_p50", 1.0),
        )
        for size, group in rows[rows["latency_ms_p50"].notna()].groupby("batch_size")
    ]
    title = "Accuracy against latency"
    name = f"accuracy_latency{suffix}"
    return Scatter(name, title, setting, TOP1, tuple(panels)) if panels else None


def _histogram(rows: pd.DataFrame, suffix: str, setting: str, reading: Reading) -> Histogram | None:
    import numpy as np

    label = labeller(rows)
    samples: dict[str, list[Any]] = {}
    described: dict[str, Any] = {}
    for _, row in rows.drop_duplicates("key").iterrows():
        images = reading.images(row["key"])
        if images is not None and len(images):
            samples.setdefault(label(row), []).append(images["macs"].to_numpy())
            described[label(row)] = row
    if not samples:
        return None
    macs = {name: np.concatenate(parts) for name, parts in samples.items()}
    scale, unit = n.macs_unit(float(max(values.max() for values in macs.values())))
    static = rows["macs_static"].dropna().astype(float)
    costs = [*macs.values(), *([static.to_numpy()] if len(static) else [])]
    top = max(float(values.max()) for values in costs) / scale
    edges = [float(edge) for edge in np.linspace(0.0, 1.05 * top, BINS + 1)]  # so that half the MACs look like half
    drawn = [
        Row(
            label=name,
            method=described[name]["method"],
            static=described[name]["role"] == "static",
            counts=tuple(int(count) for count in np.histogram(values / scale, bins=edges)[0]),
            mean=float((values / scale).mean()),
        )
        for name, values in macs.items()
    ]
    return Histogram(
        name=f"macs_per_image{suffix}",
        title="Multiply-adds spent per image",
        subtitle=setting,
        x_label=f"{unit} per image",
        edges=tuple(edges),
        rows=tuple(drawn),
        reference=float(static.mean()) / scale if len(static) else None,
    )


def _speedup(rows: pd.DataFrame, suffix: str, setting: str) -> Bars | None:
    dynamic = rows[rows["role"] != "static"]
    if dynamic.empty:
        return None
    label = labeller(rows)
    named = dynamic.assign(label=[label(row) for _, row in dynamic.iterrows()])
    labels = tuple(dict.fromkeys(named["label"]))
    cells = named.drop_duplicates("key")
    series = [
        _series("claimed (by the gates)", "claimed", cells, "speedup_claimed", labels),
        _series("executed (by what ran)", "executed", cells, "speedup_executed", labels),
    ]
    for size, group in named[named["speedup_realised"].notna()].groupby("batch_size"):
        name = f"realised, batch of {size}"
        series.append(_series(name, "realised", group, "speedup_realised", labels))
    return Bars(
        name=f"speedup{suffix}",
        title="Speed-up on paper, in operators and by the clock",
        subtitle=setting,
        x_label="speed-up over static (1 = as fast)",
        labels=labels,
        series=tuple(series),
    )


def _series(name: str, kind: str, rows: pd.DataFrame, column: str, labels: Sequence[str]) -> Series:
    def means(of: str) -> tuple[float, ...]:
        if of not in rows:
            return (float("nan"),) * len(labels)
        found = rows.groupby("label")[of].mean()
        return tuple(float(found.get(label, float("nan"))) for label in labels)

    return Series(name, kind, means(column), means(f"{column}_low"), means(f"{column}_high"))
