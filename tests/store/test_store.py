"""The output folder: what is written is read back; nothing is lost or touched needlessly."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from dyncomp.errors import InvalidValue, OutputError
from dyncomp.store import RecordWarning, Store, cell_key
from tests.records import cell_record, timing

IMAGES = {
    "label": np.array([3, 1, 3]),
    "prediction": np.array([3, 0, 3], dtype=np.int32),
    "macs": np.array([2**40, 7, 0]),
    "route": np.array(["01", "11", "00"]),
}


def cell(key: str = "a" * 16, **fields: object) -> dict[str, object]:
    return {**cell_record("static", IMAGES, []), "key": key, "finished_at": "2026-01-01T00:00:00+00:00", **fields}


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store.create(tmp_path / "out", {"seeds": [0]})


def tree(folder: Path) -> dict[str, bytes | None]:
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None
        for path in sorted(folder.rglob("*"))
    }


def test_cell_comes_back_as_written(store: Store) -> None:
    store.write_cell(cell(macs=np.float64(1.5), uncounted_calls={"aten.x": np.int64(3)}), IMAGES)
    wanted = {"schema": 1, "kind": "cell", **cell(macs=1.5, uncounted_calls={"aten.x": 3})}
    assert store.cell("a" * 16) == wanted
    assert list(json.loads((store.records / f"{'a' * 16}.json").read_text())) == list(wanted)
    assert store.cells() == [store.cell("a" * 16)]
    assert store.timings() == []


def test_images_come_back_in_order_and_type(store: Store) -> None:
    store.write_cell(cell(), IMAGES)
    frame = store.images("a" * 16)
    assert list(frame.columns) == ["label", "prediction", "macs", "route"]
    assert frame["macs"].dtype == np.int64
    assert frame.to_dict("list") == {
        "label": [3, 1, 3],
        "prediction": [3, 0, 3],
        "macs": [2**40, 7, 0],
        "route": ["01", "11", "00"],
    }
    assert pd.read_parquet(store.records / f"{'a' * 16}.parquet").equals(frame)


def test_numbers_that_are_not_finite_are_null(store: Store) -> None:
    store.write_cell(cell(top1=float("nan"), log=np.array([1.0, np.inf])), None)
    text = (store.records / f"{'a' * 16}.json").read_text()
    record = json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    assert (record["top1"], record["log"]) == (None, [1.0, None])


@pytest.mark.parametrize(
    ("images", "message"),
    [
        ({"label": [1]}, "columns are label, prediction, macs, route; given: label"),
        ({**IMAGES, "extra": [1, 2, 3]}, "given: extra, label"),
        ({**IMAGES, "route": ["1"]}, "equally long"),
    ],
)
def test_wrong_per_image_columns_write_nothing(store: Store, images: dict, message: str) -> None:
    with pytest.raises(InvalidValue, match=message):
        store.write_cell(cell(), images)
    assert list(store.records.iterdir()) == []


@pytest.mark.parametrize("key", [None, "", "../escape", "a/b", 7])
def test_key_must_name_a_file(store: Store, key: object) -> None:
    with pytest.raises(InvalidValue, match="use cell_key"):
        store.write_cell({"key": key}, None)


def test_latest_finished_cell_is_last(store: Store) -> None:
    store.write_cell(cell("a", finished_at="2026-01-02T00:00:00+00:00"), None)
    store.write_cell(cell("b", finished_at="2026-01-01T00:00:00+00:00"), None)
    assert [record["key"] for record in store.cells()] == ["b", "a"]


def test_failed_rerun_leaves_no_images_of_the_earlier_run(store: Store) -> None:
    store.write_cell(cell(), IMAGES)
    store.write_cell(cell(status="failed"), None)
    with pytest.raises(OutputError, match=r"aaaa\.parquet does not exist"):
        store.images("a" * 16)


def test_timings_are_kept_apart_from_cells(store: Store) -> None:
    record = timing(store, ["a", "b"], 8, (1.0, 2.5))
    assert store.timings() == [{"schema": 1, "kind": "timing", **record}]
    assert store.cells() == []


def test_kill_between_temp_file_and_replace_leaves_the_old_record(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.write_cell(cell(top1=1.0), IMAGES)
    before = tree(store.folder)

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        store.write_cell(cell(top1=2.0), IMAGES)
    assert tree(store.folder) == before


def test_half_written_temp_file_is_ignored(store: Store) -> None:
    store.write_cell(cell(), None)
    (store.records / ".dyncomp-tmp-0123-bbbb.json").write_text('{"key": "b')
    (store.folder / ".dyncomp-tmp-0123-config.json").write_text("{")
    assert len(store.cells()) == 1
    assert len(Store.open(store.folder).cells()) == 1


def test_full_disk_is_told_in_one_line(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OutputError, match=r"cannot write .*aaaa\.json': No space left on device; ") as told:
        store.write_cell(cell(), None)
    assert "\n" not in str(told.value)
    assert list(store.records.iterdir()) == []


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ('{"key": "b', "JSONDecodeError"),
        ("[]", "TypeError"),
        ("{}", "KeyError"),
        ('{"schema": 1, "kind": "timing", "key": "b"}', "not a record of kind cell"),
        ('{"schema": 99, "kind": "cell", "key": "b"}', "schema 99 is newer"),
        (b"\xff\xfe\x00", "Error"),
    ],
)
def test_corrupt_record_is_named_skipped_and_kept(store: Store, text: str | bytes, why: str) -> None:
    store.write_cell(cell(), None)
    bad = store.records / "bbbb.json"
    bad.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.warns(RecordWarning, match=rf"records/bbbb\.json is skipped \(.*{why}"):
        records = store.cells()
    assert [record["key"] for record in records] == ["a" * 16]
    assert bad.exists()


def test_corrupt_per_image_file_is_an_error_that_names_it(store: Store) -> None:
    (store.records / "bbbb.parquet").write_bytes(b"PAR1 no")
    with pytest.raises(OutputError, match=r"bbbb\.parquet is not readable; run the cell again"):
        store.images("bbbb")


def test_config_is_echoed_and_its_history_kept(tmp_path: Path) -> None:
    folder = tmp_path / "deep" / "out"
    Store.create(folder, {"seeds": (0,), "data_dir": Path("data")})
    Store.create(folder, {"seeds": (0,), "data_dir": Path("data")})
    assert not (folder / "config-history.jsonl").exists()
    store = Store.create(folder, {"seeds": (0, 1)})
    Store.create(folder, {"seeds": (2,)})
    history = (folder / "config-history.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in history] == [
        {"dyncomp_output": 1, "seeds": [0], "data_dir": "data"},
        {"dyncomp_output": 1, "seeds": [0, 1]},
    ]
    assert json.loads((folder / "config.json").read_text()) == {"dyncomp_output": 1, "seeds": [2]}
    assert store.config["seeds"] == [2]


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"thesis.tex": "x"}, "holds something else"),
        ({"config.json": '{"mine": 1}'}, "holds something else"),
        ({"config.json": "not json"}, "holds something else"),
        ({"config.json": '{"dyncomp_output": 99}'}, "format 99, this one knows 1"),
        ({"config.json/": ""}, "holds something else"),
    ],
)
def test_folder_that_is_not_ours_is_refused_untouched(tmp_path: Path, files: dict, message: str) -> None:
    for name, text in files.items():
        (tmp_path / name).mkdir() if name.endswith("/") else (tmp_path / name).write_text(text)
    before = tree(tmp_path)
    for opened in (lambda: Store.create(tmp_path, {}), lambda: Store.open(tmp_path)):
        with pytest.raises(OutputError, match=message) as told:
            opened()
        assert "\n" not in str(told.value)
    assert tree(tmp_path) == before


def test_empty_folder_is_taken_and_a_missing_one_not_opened(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="holds no results of dyncomp"):
        Store.open(tmp_path / "missing")
    with pytest.raises(OutputError, match="holds no results of dyncomp"):
        Store.open(tmp_path)
    Store.create(tmp_path, {})
    assert Store.open(tmp_path).cells() == []


@pytest.mark.parametrize("way", ["out", "parent"])
def test_file_in_the_way(tmp_path: Path, way: str) -> None:
    (tmp_path / way).write_text("mine")
    folder = tmp_path / "out" if way == "out" else tmp_path / "parent" / "out"
    with pytest.raises(OutputError, match="Not a directory; give another folder by --output"):
        Store.create(folder, {})
    assert tree(tmp_path) == {way: b"mine"}


@contextmanager
def unprivileged() -> Iterator[None]:
    """Drops root's right to write anywhere, where the tests run as root."""
    user = os.geteuid()
    if user == 0:
        os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(user)


def test_folder_without_write_permission(tmp_path: Path) -> None:
    tmp_path.chmod(0o555)
    with (
        unprivileged(),
        pytest.raises(OutputError, match=r"cannot .*: Permission denied; give another"),
    ):
        Store.create(tmp_path / "out", {})
    assert list(tmp_path.iterdir()) == []


def test_key_is_the_hash_of_canonical_json() -> None:
    identity = {"seed": 0, "method": "skipnet(target=0.5)", "epochs": 40}
    canonical = '{"epochs":40,"method":"skipnet(target=0.5)","seed":0}'
    assert cell_key(identity) == hashlib.sha256(canonical.encode()).hexdigest()[:16]
    assert cell_key(dict(reversed(identity.items()))) == cell_key(identity)
    assert cell_key({**identity, "seed": 1}) != cell_key(identity)
    assert cell_key({"a": {"x": 1, "y": (2, 3)}}) == cell_key({"a": {"y": [2, 3], "x": 1}})


def test_checkpoint_path(store: Store) -> None:
    assert store.checkpoint_path("abc") == store.folder / "checkpoints" / "abc.safetensors"
    assert store.checkpoint_path("abc").parent.is_dir()


def test_import_is_light() -> None:
    code = (
        "import sys, dyncomp.store; "
        "print([name for name in ('torch', 'pandas', 'pyarrow', 'numpy') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_figures_are_added_to_a_record(tmp_path: Path) -> None:
    store = Store.create(tmp_path / "out", {})
    store.write_cell(cell("a", top1=1.0), IMAGES)
    before, images = store.cell("a"), store.images("a")
    store.add_to_cell("a", {"top1": 2.0, "train_seconds": np.float32(3)})
    assert before is not None
    assert store.cell("a") == before | {"top1": 2.0, "train_seconds": 3.0}
    assert store.images("a").equals(images)


def test_figures_of_no_record_are_refused(tmp_path: Path) -> None:
    store = Store.create(tmp_path / "out", {})
    with pytest.raises(OutputError, match="no record of cell b that can be read; run the same command again"):
        store.add_to_cell("b", {"top1": 2.0})
    assert list(store.records.iterdir()) == []
