"""What holds for every test: one thread per test process, and registries that forget what it registered."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from dyncomp.registry import BACKBONES, DATASETS, METHODS

# The processes share the cores, and small tensors gain nothing from more threads. No torch is imported yet.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MPLBACKEND", "Agg")


def pytest_collection_finish() -> None:
    """Keep the garbage collector from going through torch and all tests again and again: a twelfth of the time."""
    gc.freeze()


@pytest.fixture(autouse=True)
def _forget() -> Iterator[None]:
    """A plugin of one test is unknown to the next."""
    with ExitStack() as stack:
        for registry in (METHODS, BACKBONES, DATASETS):
            stack.enter_context(registry.temporary())
        yield
