"""Results for others: timm's columns with values that follow from the records, and a table that LaTeX can set."""

from __future__ import annotations

import io
from pathlib import Path

import pandas as pd
import pytest

from dyncomp.errors import InvalidValue
from dyncomp.report import formats_of, results, write_results
from dyncomp.report.formats import TIMM, latex_text, timm_text
from dyncomp.store import Store
from tests.records import make_store, skipnet_cell, static_cell


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return make_store(tmp_path_factory.mktemp("formats") / "out", (0, 1))


def test_timm_has_a_row_for_each_network_and_batch_size(store: Store) -> None:
    frame = results(store)
    written = pd.read_csv(io.StringIO(timm_text(frame)))
    assert tuple(written.columns) == TIMM
    own = frame[(frame["method"] == "skipnet") & (frame["batch_size"] == 64)]
    row = written[(written["model"] == "skipnet(target=0.5) on cifar_resnet14") & (written["infer_batch_size"] == 64)]
    assert len(row) == 1 and len(written) == 3 * 2
    assert row["infer_gmacs"].item() == pytest.approx(own["macs"].mean() / 1e9, rel=1e-5)
    assert row["param_count"].item() == pytest.approx(0.175)
    assert row["infer_img_size"].item() == 8
    assert row["top1"].item() + row["top1_err"].item() == pytest.approx(100, abs=1e-3)


def test_times_that_are_invalid_are_empty_and_others_agree_with_each_other(store: Store) -> None:
    frame = results(store)
    written = pd.read_csv(io.StringIO(timm_text(frame.assign(verdict="INVALID: drifting"))))
    assert written[["infer_step_time", "infer_samples_per_sec"]].isna().all().all()
    written = pd.read_csv(io.StringIO(timm_text(frame.assign(verdict="VALID"))))
    speed = 1000 * written["infer_batch_size"] / written["infer_step_time"]
    assert written["infer_samples_per_sec"].to_numpy() == pytest.approx(speed.to_numpy(), rel=1e-4)


def test_latex_has_a_row_for_each_method_and_escapes_names(store: Store) -> None:
    text = latex_text(results(store))
    assert text.startswith("\\begin{tabular}{lrrrrrr}\n\\toprule\n")
    rows = [line for line in text.splitlines() if line.endswith("\\\\")]
    assert [row.split(" & ")[0] for row in rows] == ["method", "static", "condconv", "skipnet(target=0.5)"]
    assert "top-1 (\\%)" in rows[0]


def test_names_that_mean_something_to_latex_are_escaped(tmp_path: Path) -> None:
    store = Store.create(tmp_path, {})
    static_cell(store)
    skipnet_cell(store, spec='my_gate(of="50%")')
    assert 'my\\_gate(of="50\\%")' in latex_text(results(store))


def test_files_are_written_beside_the_results(tmp_path: Path) -> None:
    store = make_store(tmp_path / "out")
    found = write_results(store, ["latex", "timm"])
    assert found == [store.folder / "results.tex", store.folder / "results-timm.csv"]
    assert all(path.read_text() for path in found)
    assert write_results(store, []) == []


def test_nothing_finished_gives_tables_without_rows(tmp_path: Path) -> None:
    store = Store.create(tmp_path, {})
    assert timm_text(results(store)) == ",".join(TIMM) + "\n"
    assert "tabular" in latex_text(results(store))


def test_names_of_formats_are_checked() -> None:
    assert formats_of(" timm,latex,timm") == ["timm", "latex"]
    assert formats_of("") == []
    with pytest.raises(InvalidValue, match="'word' is no format; give timm, latex, or both"):
        formats_of("timm,word")
