"""Whether a method is worth it: planted networks above, beside and below static ones, faster and slower."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from dyncomp.report import results
from dyncomp.report.worth import Worth, worth_of
from dyncomp.store import Store
from tests.records import IMAGES, cell_record, images_of, timing, used_units
from tests.report.test_controls import setting_of, timed, write


def add(store: Store, macs: int, wrong: int) -> str:
    """The key of a further method, with so many wrong answers."""
    images = images_of(used_units([], 0), np.full(IMAGES, macs), wrong, 77)
    record = cell_record("mine", images, [])
    store.write_cell(record, images)
    return str(record["key"])


@pytest.mark.parametrize(
    ("macs", "wrong", "mark", "why"),
    [
        (720_000, 5, "yes", "better than static nets of equal multiply-adds (no latency is known)"),
        (720_000, 26, "unclear", "not distinguishable from static nets of equal multiply-adds (no latency is known)"),
        (720_000, 80, "no", "static nets of equal multiply-adds (no latency is known) are no worse"),
        (9_000_000, 10, "no", "static nets of equal multiply-adds (no latency is known) are no worse"),
    ],
)
def test_without_times_multiply_adds_decide(macs: int, wrong: int, mark: str, why: str, tmp_path: Path) -> None:
    store = write(tmp_path)
    add(store, macs, wrong)
    assert worth_of(setting_of(store), "mine") == Worth(mark, why)  # type: ignore[arg-type]


def test_what_costs_more_than_all_static_nets_and_is_better_is_not_judged(tmp_path: Path) -> None:
    store = write(tmp_path)
    add(store, 9_000_000, 3)
    assert worth_of(setting_of(store), "mine") is None
    assert worth_of(setting_of(store), "costly") is None


@pytest.mark.parametrize(
    ("ms", "wrong", "mark", "why"),
    [
        ((6.0, 6.0), 3, "yes", "better than static nets of equal latency at batch 1 and 64"),
        ((6.0, 6.0), 24, "unclear", "not distinguishable from static nets of equal latency at batch 1 and 64"),
        ((6.0, 6.0), 90, "no", "static nets of equal latency are no worse at batch 1 and 64"),
        ((6.0, 20.0), 12, "yes", "at batch 1; at batch 64 static nets of equal latency are no worse"),
        ((20.0, 30.0), 12, "no", "static nets of equal latency are no worse at batch 1 and 64"),  # whatever the margin
        (
            (20.0, 6.0),
            24,
            "unclear",
            "static nets of equal latency are no worse at batch 1, at batch 64 not distinguishable from them",
        ),
        (
            (20.0, 2.0),  # faster than all static nets
            24,
            "unclear",
            "static nets of equal latency are no worse at batch 1, at batch 64 not known",
        ),
    ],
)
def test_times_go_before_multiply_adds(
    ms: tuple[float, float], wrong: int, mark: str, why: str, tmp_path: Path
) -> None:
    store = write(tmp_path)
    mine = add(store, 720_000, wrong)
    keys = {cell["spec"]: cell["key"] for cell in store.cells()}
    rungs = {"static": 8.0, "ladder(macs=0.25)": 4.0, "ladder(macs=0.75)": 7.0}
    for size, own in zip((1, 64), ms, strict=True):
        store.write_timing(timing(store, [*(keys[spec] for spec in rungs), mine], size, [*rungs.values(), own]))
    assert worth_of(setting_of(store), "mine") == Worth(mark, why)  # type: ignore[arg-type]


def test_the_table_has_the_mark_and_the_sentence(tmp_path: Path) -> None:
    table = results(timed(write(tmp_path)))
    gated = table[table["spec"] == "gated"]
    assert set(gated["worth_it"]) == {"yes"}
    (sentence,) = set(gated["sentence"])
    assert sentence.startswith("gated: ")
    assert "; worth it: yes, at batch 1; at batch 64 static nets of equal latency are no worse" in sentence
    assert table.loc[table["role"] == "control", ["worth_it", "sentence"]].isna().all().all()
    assert table.loc[table["spec"] == "static", "sentence"].notna().all()
    assert pd.isna(table.loc[table["spec"] == "static", "worth_it"]).all()
