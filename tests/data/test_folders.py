"""Where data is looked for, and how downloads arrive."""

from __future__ import annotations

from pathlib import Path

import pytest

from dyncomp.data import data_folders
from dyncomp.data.folders import download
from dyncomp.errors import DataNotFound


def test_the_named_folder_then_the_environment_then_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    named, other = tmp_path / "named", tmp_path / "other"
    for folder in (named, other):
        folder.mkdir()
    monkeypatch.setenv("DYNCOMP_DATA", str(other))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert data_folders(named) == [named, other, tmp_path / "cache" / "dyncomp"]
    monkeypatch.delenv("DYNCOMP_DATA")
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert data_folders() == [tmp_path / ".cache" / "dyncomp"]


def test_a_named_folder_must_exist(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DataNotFound, match=r"--data-dir=.*slip is not a folder"):
        data_folders(tmp_path / "slip")
    monkeypatch.setenv("DYNCOMP_DATA", str(tmp_path / "slip"))
    with pytest.raises(DataNotFound, match="DYNCOMP_DATA"):
        data_folders()


def test_a_download_that_fails_half_way_leaves_nothing(tmp_path: Path) -> None:
    def fetch(folder: str) -> None:
        (Path(folder) / "set").mkdir()
        raise OSError("reset\nby peer")

    assert download(fetch, "set", tmp_path) == "the download failed (reset by peer)"
    assert list(tmp_path.iterdir()) == []


def test_a_download_that_another_run_finished_first_is_not_an_error(tmp_path: Path) -> None:
    def fetch(folder: str) -> None:
        for place in (Path(folder), tmp_path):
            (place / "set").mkdir()
            (place / "set" / "file").write_text(place.name)

    assert download(fetch, "set", tmp_path) is None
    assert (tmp_path / "set" / "file").read_text() == tmp_path.name


def test_a_cache_that_cannot_be_made_is_a_failed_download(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    reason = download(lambda folder: None, "set", tmp_path / "file" / "dyncomp")
    assert reason is not None
    assert "failed" in reason
    assert download(lambda folder: None, "set", tmp_path) == "the download brought no set"
