"""Fixtures of the tests of generated code."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from dyncomp.fast.memory import allocated_by
from dyncomp.fast.tuning import by_last_ways
from tests.guarded import before_a_fault, forget_scratch


@pytest.fixture
def memory_before_faults() -> Iterator[None]:
    """Every buffer lies before a page that faults, and code of the package's own runs wherever it can."""
    with allocated_by(before_a_fault), by_last_ways():
        forget_scratch()
        yield
        forget_scratch()
