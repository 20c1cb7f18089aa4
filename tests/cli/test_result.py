"""The last screen: what it says, on 80 columns, in about 20 lines."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from dyncomp.cli import result
from dyncomp.store import Store
from tests.records import IMAGES, cell_record, failed_cell, images_of, timing, used_units
from tests.report.test_controls import timed, write


def screen(store: Store, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    with open("/dev/null", "w") as nowhere:
        console = Console(width=80, record=True, file=nowhere)
        monkeypatch.setattr(result, "Console", lambda: console)
        result.show_result(store)
    return [line.rstrip() for line in console.export_text().splitlines()]


def test_a_row_for_each_method_and_what_to_ship(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = timed(write(tmp_path))
    lines = screen(store, monkeypatch)
    text = "\n".join(lines)
    assert lines[0] == "cifar_resnet14 on digits, 1 seed"
    assert lines[1].split() == "method top-1 % over static MACs batch 1 batch 64 worth it".split()  # noqa: SIM905
    static, costly, gated = (line.split() for line in lines[3:6])
    assert static[0:2] == ["static", "97.22"] and static[-1] == "ms"
    assert (costly[0], gated[0], gated[-1]) == ("costly", "gated", "yes")
    assert "-0.6 ± " in lines[5] and "0.60x" in lines[5] and "1.33x" in lines[5]
    assert "static nets of 300 k to 900 k MACs: 86.1 % to 94.4 %" in text
    assert "- least latency at batch 1: " in text
    assert lines[-1] == f"Report: {store.folder / 'report.html'}"
    assert "\u2026" not in text
    assert len(lines) <= 20


def test_many_methods_are_shown_in_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = timed(write(tmp_path, seeds=1))
    for number in range(20):
        images = images_of(used_units([], 0), np.full(IMAGES, 700_000 + number), 20 + number, number)
        store.write_cell(cell_record(f"conditional_network_{number}", images, []), images)
    lines = screen(store, monkeypatch)
    assert "and 14 less accurate methods, in the report" in lines
    assert len(lines) <= 24
    assert "\u2026" not in "\n".join(lines)


def test_a_failed_cell_and_an_invalid_ratio_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = write(tmp_path)
    failed_cell(store, "blockdrop", error="ValueError: [no] loss")
    keys = [cell["key"] for cell in store.cells() if cell["spec"] in ("static", "gated")]
    record = timing(store, keys, 1, [2.0] * len(keys))
    few = {name: samples[:2] for name, samples in record["samples_ms"].items()}
    store.write_timing(record | {"samples_ms": few})  # type: ignore[typeddict-item]
    text = "\n".join(screen(store, monkeypatch))
    assert "failed: blockdrop, seed 0: ValueError: [no] loss" in text
    assert "(1.00x)" in text
