"""Controls in the report: the ladder between two rungs, intervals by hand, and what is said of a method."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy.stats import t

from dyncomp.report import results
from dyncomp.report.controls import Setting, clauses_of, settings
from dyncomp.report.figures import figures
from dyncomp.report.plotdata import Scatter
from dyncomp.report.reading import read
from dyncomp.report.statistics import Z95, Spread, contrast
from dyncomp.report.table import results_of
from dyncomp.report.tables import control_table
from dyncomp.report.words import words
from dyncomp.store import Store
from tests.records import IMAGES, cell_record, images_of, timing, used_units

NETWORKS = {
    "static": (1_200_000, 10, "static", ""),
    "ladder(macs=0.25)": (300_000, 40, "control", "static"),
    "ladder(macs=0.5)": (600_000, 50, "control", "static"),
    "ladder(macs=0.75)": (900_000, 20, "control", "static"),
    "gated": (720_000, 12, "method", ""),
    'fixed(of="gated")': (725_000, 40, "control", "gated"),
    'random(of="gated")': (820_000, 13, "control", "gated"),
    "costly": (1_500_000, 9, "method", ""),
}
"""by spec: multiply-adds, wrong answers of seed 0, role, what it is a control of"""


def write(folder: Path, seeds: int = 1) -> Store:
    store = Store.create(folder, {})
    for spec, (macs, errors, role, of) in NETWORKS.items():
        for seed in range(seeds):
            number = 10 * list(NETWORKS).index(spec) + seed
            images = images_of(used_units([], 0), np.full(IMAGES, macs), errors + 2 * seed, number)
            store.write_cell(cell_record(spec, images, [], seed, role=role, control_of=of), images)
    return store


def setting_of(store: Store) -> Setting:
    reading = read(store)
    (setting,) = settings(reading, results_of(reading))
    return setting


def test_only_rungs_that_no_cheaper_one_equals_are_the_front(tmp_path: Path) -> None:
    setting = setting_of(write(tmp_path))
    found = setting.static_at("gated")
    assert found is not None and (found.low.spec, found.high.spec) == ("ladder(macs=0.25)", "ladder(macs=0.75)")
    found = setting.static_at('fixed(of="gated")')  # any network has its place
    assert found is not None and (found.low.spec, found.high.spec) == ("ladder(macs=0.25)", "ladder(macs=0.75)")


def test_static_at_equal_cost_lies_between_two_rungs_by_the_logarithm(tmp_path: Path) -> None:
    found = setting_of(write(tmp_path)).static_at("gated")
    assert found is not None
    share = math.log(720 / 300) / math.log(900 / 300)
    low, high = (100 * (1 - wrong / IMAGES) for wrong in (40, 20))
    assert (found.top1, found.share) == pytest.approx(((1 - share) * low + share * high, share))


def test_where_dearer_rungs_are_no_better_the_best_cheaper_one_counts(tmp_path: Path) -> None:
    store = write(tmp_path)
    images = images_of(used_units([], 0), np.full(IMAGES, 1_600_000), 15, 7)
    record = cell_record("ladder(macs=1.5)", images, [], role="control", control_of="static")
    store.write_cell(record, images)
    setting = setting_of(store)
    at = setting.static_at("costly")
    assert at is not None and (at.top1, at.share) == (pytest.approx(100 * (1 - 10 / IMAGES)), 0.0)
    found = setting.over_static("costly")
    assert found is not None and found.points == pytest.approx(100 / IMAGES)


def test_beyond_the_ladder_nothing_is_said(tmp_path: Path) -> None:
    setting = setting_of(write(tmp_path))
    assert setting.static_at("costly") is None and setting.over_static("costly") is None
    assert not list(clauses_of(setting, "costly"))


def right(store: Store, spec: str) -> np.ndarray:
    (key,) = {cell["key"] for cell in store.cells() if cell["spec"] == spec}
    frame = store.images(key)
    return (frame["prediction"] == frame["label"]).to_numpy(dtype=float)


def test_the_difference_and_its_interval_by_hand(tmp_path: Path) -> None:
    store = write(tmp_path)
    share = math.log(720 / 300) / math.log(900 / 300)
    rungs = (1 - share) * right(store, "ladder(macs=0.25)") + share * right(store, "ladder(macs=0.75)")
    each = right(store, "gated") - rungs
    found = setting_of(store).over_static("gated")
    assert found is not None
    assert found.points == pytest.approx(100 * each.mean())
    assert found.margin == pytest.approx(100 * Z95 * each.std() / math.sqrt(IMAGES))


TIMES = {"static": 8.0, "ladder(macs=0.25)": 4.0, "ladder(macs=0.5)": 5.0, "ladder(macs=0.75)": 7.0, "gated": 6.0}
"""milliseconds at batch 1; at batch 64 `costly` takes the time of static, and one rung alone was timed besides"""


def timed(store: Store) -> Store:
    keys = {cell["spec"]: cell["key"] for cell in store.cells()}
    store.write_timing(timing(store, [keys[spec] for spec in TIMES], 1, list(TIMES.values())))
    some = [keys[spec] for spec in ("static", "costly", "gated")]
    store.write_timing(timing(store, some, 64, [8.0, 8.0, 9.0]))
    return store


def test_static_nets_of_equal_latency_by_hand(tmp_path: Path) -> None:
    store = timed(write(tmp_path))
    setting = setting_of(store)
    gain = setting.gains[1]["gated"]
    assert gain.middle == pytest.approx(8 / 6, rel=0.05)
    ratio = {spec: setting.gains[1][spec].middle for spec in TIMES}
    low, high = "ladder(macs=0.25)", "ladder(macs=0.75)"  # the one between is no better than the cheapest
    whole = math.log(ratio[low] / ratio[high])
    share = math.log(ratio[low] / gain.middle) / whole
    each = right(store, "gated") - (1 - share) * right(store, low) - share * right(store, high)
    found = setting.over_static("gated", 1)
    assert found is not None
    assert found.points == pytest.approx(100 * each.mean())
    of_images = 100 * Z95 * each.std() / math.sqrt(IMAGES)
    slope = 100 * (right(store, high).mean() - right(store, low).mean()) / whole
    of_time = slope * math.log(gain.high / gain.low) / 2
    assert found.margin == pytest.approx(math.hypot(of_images, of_time))
    assert found.margin > of_images
    assert setting.over_static("gated", 64) is None  # of static nets static alone was timed there
    assert setting.over_static("costly", 1) is None  # it was not timed


def test_equal_latency_stands_in_table_sentence_and_page(tmp_path: Path) -> None:
    store = timed(write(tmp_path))
    found = setting_of(store).over_static("gated", 1)
    assert found is not None
    table = results(store)
    gated = table[table["spec"] == "gated"].set_index("batch_size")
    assert gated.loc[1, "over_static_at_equal_latency_points"] == pytest.approx(found.points)
    assert pd.isna(gated.loc[64, "over_static_at_equal_latency_points"])
    assert gated["over_static_at_equal_macs_points"].notna().all()
    (text,) = (sentence.text for sentence in words(store) if sentence.spec == "gated")
    assert "static nets of equal latency at batch 1" in text
    assert "equal latency at batch 64" not in text
    shown = control_table(table)
    assert shown is not None
    (row,) = [row for row in shown.rows if row[0].text == "gated"]
    place = shown.headers.index("above static of equal time, batch 1")
    assert row[place].text == f"{found.points:+.2f} ± {found.margin:.2f}"


def test_seeds_widen_the_interval_by_the_pooled_spread(tmp_path: Path) -> None:
    setting = setting_of(write(tmp_path, seeds=2))
    step = 100 * 2 / IMAGES  # between the two seeds of each network
    assert setting.spread == Spread(pytest.approx(step / math.sqrt(2)), len(NETWORKS))
    wanted = t.ppf(0.975, len(NETWORKS)) * step / math.sqrt(2) * math.sqrt(2 / 2)
    assert setting.spread.margin([1.0, -1.0], seeds=2) == pytest.approx(wanted)


def frame(labels: list[int], predictions: list[int]) -> pd.DataFrame:
    return pd.DataFrame({"label": labels, "prediction": predictions})


def test_without_the_same_images_there_is_no_contrast() -> None:
    one, other = frame([0, 1], [0, 1]), frame([1, 0], [1, 0])
    nothing = Spread(0.0, 0)
    assert contrast([[(1.0, one), (-1.0, None)]], nothing) is None
    assert contrast([[(1.0, one), (-1.0, other)]], nothing) is None
    assert contrast([], nothing) is None
    found = contrast([[(1.0, one), (-1.0, frame([0, 1], [0, 0]))]], nothing)
    assert found is not None and found.points == 50.0


def test_what_is_said_of_a_method(tmp_path: Path) -> None:
    (text,) = (sentence.text for sentence in words(write(tmp_path)) if sentence.spec == "gated")
    assert "points above static nets of equal multiply-adds" in text
    assert "better than fixed pruning (88.9 %, +7.8 ± " in text
    assert "no better than random routes (96.4 % at 114 % of its multiply-adds, +0.3 ± " in text


def test_controls_have_no_sentence_of_their_own(tmp_path: Path) -> None:
    assert [sentence.spec for sentence in words(write(tmp_path))] == ["static", "costly", "gated"]


def test_the_table_and_the_columns_agree(tmp_path: Path) -> None:
    store = write(tmp_path)
    table = results(store).set_index("spec")
    row: Any = table.loc["gated"]
    assert row["fixed_top1"] == pytest.approx(100 * (1 - 40 / IMAGES)) and row["fixed_macs"] == 725_000
    assert row["over_random_points"] == pytest.approx(100 / IMAGES)
    assert table.loc["static"][["fixed_top1", "static_top1_at_equal_macs"]].isna().all()
    assert {of for of in table["control_of"].dropna() if of} == {"gated", "static"}
    shown = control_table(results(store))
    assert shown is not None
    (cells,) = [[cell.text for cell in one] for one in shown.rows]
    assert cells[0] == "gated" and cells[5] == "88.89" and cells[10].startswith("+0.28 ± ")


def test_the_scatter_has_the_ladder_behind_it_and_no_controls(tmp_path: Path) -> None:
    reading = read(write(tmp_path))
    scatter = next(one for one in figures(reading, results_of(reading)) if isinstance(one, Scatter))
    (panel,) = scatter.panels
    assert {point.label for point in panel.points} == {"static", "gated", "costly"}
    assert [round(x, 2) for x, _ in panel.ladder] == [0.3, 0.6, 0.9, 1.2]


def test_sources_are_no_rows(tmp_path: Path) -> None:
    store = write(tmp_path)
    images = images_of(used_units([], 0), np.full(IMAGES, 1_200_000), 30, 99)
    store.write_cell(cell_record("static", images, [], budget="5", role="source"), images)
    assert set(results(store)["budget"]) == {"quick"}
