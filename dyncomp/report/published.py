"""What the papers report of the methods of a run, beside what the run has measured."""

from __future__ import annotations

import csv
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dyncomp.report import numbers as n
from dyncomp.report.tables import Table, row_of

if TYPE_CHECKING:
    import pandas as pd

FILES = (Path(__file__).with_name("published.csv"), Path(__file__).parents[2] / "baselines/published/figures.csv")
"""where an installed package has the figures, and where a checkout has them"""
HERE = "measured here"


@cache
def published() -> tuple[dict[str, str], ...]:
    """The papers' figures, a row each; see `baselines/README.md` for the columns."""
    file = next((file for file in FILES if file.is_file()), None)
    if file is None:
        return ()
    with file.open(encoding="utf-8", newline="") as text:
        return tuple(csv.DictReader(text))


def published_table(frame: pd.DataFrame) -> Table | None:
    """For each method of the run its cells, means over the seeds, then the published rows with an accuracy."""
    done = frame[(frame["status"] == "ok") & (frame["role"] == "method")]
    rows = []
    for method in sorted(done["method"].unique()):
        known = [row for row in published() if row["method"] == method and row["top1"]]
        if known:
            rows += [row_of(*_measured(own)) for _, own in done[done["method"] == method].groupby(list(_SAME))]
            rows += [row_of(*_reported(row)) for row in known]
    headers = ("method", "data", "backbone", "configuration", "top-1", "MACs", "as reported", "source", "flags")
    return Table(headers, tuple(rows)) if rows else None


_SAME = ("spec", "dataset", "backbone")


def _measured(own: pd.DataFrame) -> Iterable[tuple[str, Any]]:
    cells = own.drop_duplicates("key")
    first = cells.iloc[0]
    for value in (first["method"], first["dataset"], first["backbone"], first["spec"]):
        yield str(value), str(value)
    yield n.fixed(cells["top1"].mean(), 2), cells["top1"].mean()
    yield n.macs(cells["macs"].mean()), cells["macs"].mean()
    seeds = f"{len(cells)} seed{'s' if len(cells) > 1 else ''}, budget {first['budget']}"
    yield from (("", ""), (HERE, HERE), (seeds, seeds))


def _reported(row: dict[str, str]) -> Iterable[tuple[str, Any]]:
    for name in ("method", "dataset", "backbone", "configuration"):
        yield row[name], row[name]
    yield row["top1"], float(row["top1"])
    macs = 1e6 * float(row["macs_m"]) if row["macs_m"] else None
    yield n.macs(macs), macs
    reported = ", ".join(text for text in (row["as_reported"], row["convention"]) if text)
    for value in (reported, row["source"], row["flags"]):
        yield value, value
