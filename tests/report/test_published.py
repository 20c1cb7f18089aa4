"""The papers' figures and kept ladders: what the files hold, and where a report shows it."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest

from dyncomp import list_methods
from dyncomp.report import figures as drawing
from dyncomp.report import results
from dyncomp.report.figures import figures
from dyncomp.report.plotdata import Scatter
from dyncomp.report.published import HERE, published, published_table
from dyncomp.report.reading import read
from dyncomp.report.table import results_of
from dyncomp.store import Store
from tests.records import IMAGES, cell_record, images_of, used_units

ROOT = Path(__file__).parents[2]


def write(folder: Path, *specs: str) -> Store:
    store = Store.create(folder, {})
    for spec in specs:
        images = images_of(used_units([], 0), np.full(IMAGES, 1_000_000), 10, len(spec))
        role = "static" if spec == "static" else "method"
        store.write_cell(cell_record(spec, images, [], role=role), images)
    return store


def test_every_published_row_has_a_source_and_numbers_that_can_be() -> None:
    rows = published()
    assert len(rows) > 250
    assert {row["method"] for row in rows} - {""} <= set(list_methods())
    for row in rows:
        assert row["source"] and row["dataset"] and row["backbone"], row
        assert all(not row[name] or float(row[name]) > 0 for name in ("params_m", "macs_m")), row
        assert not row["top1"] or 0 < float(row["top1"]) < 100, row


def test_blockdrops_figures_are_multiply_adds() -> None:
    """Its counter takes a multiply-add for two operations: 12.5 G of them on ResNet-101 are 6.25 G."""
    found = [row for row in published() if row["method"] == "blockdrop" and "1.25E+10" in row["as_reported"]]
    assert found
    for row in found:
        assert float(row["macs_m"]) == pytest.approx(6250, rel=0.01)
        assert "twice" in row["flags"]


def test_the_table_has_what_was_measured_first(tmp_path: Path) -> None:
    table = published_table(results(write(tmp_path, "static", "fbs", "of_my_own")))
    assert table is not None
    rows = [[cell.text for cell in row] for row in table.rows]
    assert {row[0] for row in rows} == {"fbs"}
    assert rows[0][1:4] == ["digits", "cifar_resnet14", "fbs"] and rows[0][7:] == [HERE, "1 seed, budget quick"]
    assert all(row[7] != HERE for row in rows[1:]) and len(rows) > 1
    assert published_table(results(write(tmp_path / "other", "static", "of_my_own"))) is None


def test_a_report_without_a_ladder_has_the_kept_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = write(tmp_path / "run", "static", "fbs")

    def ladder() -> tuple[tuple[float, float], ...]:
        reading = read(store)
        scatter = next(one for one in figures(reading, results_of(reading)) if isinstance(one, Scatter))
        return scatter.panels[0].ladder

    monkeypatch.setattr(drawing, "LADDERS", (tmp_path / "absent", tmp_path))
    assert ladder() == ()
    with (tmp_path / "digits-cifar_resnet14-quick.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerows([("spec", "macs", "top1"), ("ladder", 500_000, 90.5), ("static", 1_200_000, 97.2)])
    assert ladder() == ((0.5, 90.5), (1.2, 97.2))


def test_the_readme_of_the_baselines_tells_every_column() -> None:
    text = (ROOT / "baselines/README.md").read_text(encoding="utf-8")
    assert [name for name in published()[0] if f"`{name}`" not in text] == []
