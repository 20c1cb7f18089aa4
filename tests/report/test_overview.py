"""One row per network: who is in it, in which order, and with which values."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from dyncomp.report.controls import settings
from dyncomp.report.overview import Time, overview, overview_table, written
from dyncomp.report.reading import read
from dyncomp.report.table import results_of
from tests.records import IMAGES, cell_record, images_of, make_store, used_units
from tests.report.test_controls import NETWORKS, setting_of, timed, write


def test_static_first_then_the_most_accurate_with_static_nets_of_other_sizes(tmp_path: Path) -> None:
    rows = overview(setting_of(timed(write(tmp_path, seeds=2))))
    specs = [row.network.spec for row in rows]
    assert specs[:3] == ["static", "costly", "gated"]
    assert set(specs) == {spec for spec, (_, _, role, of) in NETWORKS.items() if role != "control" or of == "static"}
    assert [row.network.top1 for row in rows[1:]] == sorted((row.network.top1 for row in rows[1:]), reverse=True)
    costly = rows[1]
    assert costly.over is not None and costly.over.points == pytest.approx(100 / IMAGES)
    assert costly.macs_ratio == pytest.approx(1.25)
    assert rows[0].over is None and rows[0].macs_ratio == 1.0


def test_times_of_valid_and_of_other_ratios(tmp_path: Path) -> None:
    rows = {row.network.spec: row for row in overview(setting_of(timed(write(tmp_path))))}
    assert rows["gated"].times[1].ratio == pytest.approx(8 / 6, rel=0.02)
    assert 64 not in rows["ladder(macs=0.25)"].times
    assert written(Time(1.5, 0.5, True), is_static=True) == "1.50 ms"
    assert written(Time(1.5, 0.5, True), is_static=False) == "0.50x"
    assert written(Time(1.5, 0.5, False), is_static=False) == "(0.50x)"
    assert written(None, is_static=False) == ""


def test_the_table_tells_settings_apart_only_where_there_are_several(tmp_path: Path) -> None:
    store = make_store(tmp_path / "out", (0, 1))
    table = overview_table([setting_of(store)])
    assert table.headers[:3] == ("method", "worth it", "top-1") and len(table.rows) == 3
    assert [row[4].text for row in table.rows][:2] == ["1.20 M", "106 %"]  # MACs: static's, then shares of it
    images = images_of(used_units([], 0), np.full(IMAGES, 1_000_000), 9, 5)
    store.write_cell(cell_record("static", images, [], role="static", backbone="vgg11"), images)
    reading = read(store)
    table = overview_table(list(settings(reading, results_of(reading))))
    assert table.headers[:4] == ("method", "worth it", "backbone", "top-1")
    assert [row[2].text for row in table.rows] == ["cifar_resnet14"] * 3 + ["vgg11"]
    assert overview_table([]).rows == ()
