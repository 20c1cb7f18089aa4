"""Output folders to report on."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2]))  # `tests.records`, however pytest was started

from dyncomp.store import Store
from tests.records import CONFIG, make_store


@pytest.fixture
def empty(tmp_path: Path) -> Store:
    return Store.create(tmp_path / "empty", CONFIG)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """Static, CondConv, SkipNet and a failed BlockDrop, one seed, batches of 1 and 64."""
    return make_store(tmp_path / "out")


@pytest.fixture
def seeds(tmp_path: Path) -> Store:
    """The same with three seeds."""
    return make_store(tmp_path / "seeds", (0, 1, 2))
