"""An output folder in a notebook."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

import dyncomp
from dyncomp.errors import OutputError
from dyncomp.report import results, words
from tests.records import make_store


def test_the_results_of_a_folder_are_a_table(tmp_path: Path) -> None:
    store = make_store(tmp_path / "out")
    pd.testing.assert_frame_equal(dyncomp.read_results(str(store.folder)), results(store))


def test_a_folder_is_shown_as_its_page_and_as_text(tmp_path: Path) -> None:
    store = make_store(tmp_path / "out")
    before = sorted(store.folder.rglob("*"))
    shown = dyncomp.show(store.folder)
    assert repr(shown).splitlines() == [f"- {sentence}" for sentence in words(store)]
    page = shown._repr_html_()
    assert page.startswith('<iframe srcdoc="&lt;!doctype html&gt;')
    assert page.count("<") == 2  # the frame alone: all of the page is its text
    assert sorted(store.folder.rglob("*")) == before


def test_a_folder_of_something_else_is_told(tmp_path: Path) -> None:
    for ask in (dyncomp.read_results, dyncomp.show):
        with pytest.raises(OutputError, match="holds no results of dyncomp"):
            ask(tmp_path)
