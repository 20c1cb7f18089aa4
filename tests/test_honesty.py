"""The scripts under benchmarks/honesty say what the records and the clock say."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

from dyncomp.data import ImageSplit
from dyncomp.store import Store
from tests.handmade import stripes
from tests.records import IMAGES, MACS_STATIC, failed_cell, skipnet_cell, static_cell

FOLDER = Path(__file__).parents[1] / "benchmarks" / "honesty"


def script(name: str, monkeypatch: pytest.MonkeyPatch, results: Path) -> ModuleType:
    """The script as a module, which writes its table elsewhere."""
    found = importlib.util.spec_from_file_location(name, FOLDER / f"{name}.py")
    assert found is not None
    assert found.loader is not None
    module = importlib.util.module_from_spec(found)
    monkeypatch.setitem(sys.modules, name, module)
    found.loader.exec_module(module)
    monkeypatch.setattr(module, "RESULTS", results / "found" / f"{name}.md")
    return module


def test_priced_equals_executed_reads_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    check = script("priced_equals_executed", monkeypatch, tmp_path)
    folder = tmp_path / "run"
    store = Store.create(folder, {})
    static_cell(store)
    assert check.main([str(folder)]) == 0
    skipnet_cell(store, executed_macs=7)
    failed_cell(store)
    assert check.main([str(folder)]) == 1
    text = check.RESULTS.read_text(encoding="utf-8")
    rows = {line.split("|")[1].strip(): line for line in text.splitlines() if line.startswith("| ")}
    assert f"{MACS_STATIC * IMAGES:,} | {MACS_STATIC * IMAGES:,} | yes | 0% | none" in rows["static"]
    assert "| 7 | no, -" in rows["skipnet(target=0.5)"]
    assert "| failed |  | TypeError" in rows["blockdrop"]
    assert "1 of 3 cells are equal." in text


def test_profiling_cost_measures_both_ways(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    check = script("profiling_cost", monkeypatch, tmp_path)
    monkeypatch.setattr(check, "BACKBONE", "cifar_resnet8")
    split = stripes(count=24, size=8).test
    assert isinstance(split, ImageSplit)
    cost = check.measure("skipnet", split, seconds=0.0)
    assert (len(cost.plain_s), len(cost.profiled_s), cost.images) == (5, 5, 24)
    assert min(*cost.plain_s, *cost.profiled_s) > 0
    low, middle, high = cost.ratio
    assert low <= middle <= high
    by_hand = check.Cost("a", 1, [1.0, 2.0, 4.0], [1.1, 2.4, 4.4])
    assert by_hand.ratio[1] == pytest.approx(1.1)
    assert "| a | 1 | 3 | 2.000 | 2.400 | 1.100 |" in check.document([by_hand], "data")
