"""Several folders as one: nothing lost, nothing of theirs touched, and what differs is told."""

from __future__ import annotations

from pathlib import Path

import pytest

from dyncomp.errors import OutputError
from dyncomp.report import results
from dyncomp.store import Store, merge
from tests.records import condconv_cell, skipnet_cell, static_cell, timing


def folder_with(path: Path, *, methods: str) -> Store:
    store = Store.create(path, {"methods": methods, "left_out": []})
    keys = [static_cell(store), (condconv_cell if methods == "condconv" else skipnet_cell)(store)]
    store.write_timing(timing(store, keys, 1, [2.0, 4.0]))
    store.checkpoint_path(keys[0]).write_bytes(methods.encode())
    return store


def files(store: Store) -> dict[str, bytes]:
    return {str(path.relative_to(store.folder)): path.read_bytes() for path in store.folder.rglob("*.*")}


@pytest.fixture
def two(tmp_path: Path) -> list[Store]:
    return [folder_with(tmp_path / name, methods=name) for name in ("condconv", "skipnet")]


def test_all_records_and_checkpoints_are_in_the_new_folder(two: list[Store], tmp_path: Path) -> None:
    before = [files(store) for store in two]
    merged, told = merge(two, tmp_path / "both")
    assert told == []  # the static cell is the same in both
    assert {cell["method"] for cell in merged.cells()} == {"static", "condconv", "skipnet"}
    assert len(merged.timings()) == 2
    for store in two:
        for cell in store.cells():
            assert merged.cell(cell["key"]) == cell
            assert merged.images(cell["key"]).equals(store.images(cell["key"]))
    assert merged.config["methods"] == "skipnet"
    assert '"condconv"' in (merged.folder / "config-history.jsonl").read_text()
    assert [files(store) for store in two] == before
    assert set(results(merged)["method"]) == {"static", "condconv", "skipnet"}


def test_of_two_versions_of_a_record_the_latest_is_kept_and_told(two: list[Store], tmp_path: Path) -> None:
    (static,) = (cell["key"] for cell in two[0].cells() if cell["method"] == "static")
    two[0].add_to_cell(static, {"finished_at": "2039-01-01T00:00:00+00:00"})  # type: ignore[typeddict-unknown-key]
    merged, (line,) = merge(two, tmp_path / "both")
    assert line.startswith(f"records/{static}.json differs between {two[0].folder}, {two[1].folder}: ")
    assert line.endswith(f"the one of {two[0].folder}, the latest, is kept")
    assert merged.cell(static) == two[0].cell(static)
    assert merged.checkpoint_path(static).read_bytes() == b"condconv"  # of the same run as the record


def test_a_folder_that_is_not_empty_is_left_alone(two: list[Store], tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").write_text("years of work")
    for place in (tmp_path / "full", two[0].folder, tmp_path / "full" / "thesis.txt"):
        before = files(two[0])
        with pytest.raises(OutputError, match="is not empty; give a new folder") as caught:
            merge(two, place)
        assert "\n" not in str(caught.value)
        assert files(two[0]) == before
    assert (tmp_path / "full" / "thesis.txt").read_text() == "years of work"
