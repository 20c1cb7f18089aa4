"""Context variables that have a value for a while."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TypeVar

V = TypeVar("V")


@contextmanager
def during(variable: ContextVar[V], value: V) -> Iterator[None]:
    """Inside, in this thread, the variable has that value; afterwards the one that it had."""
    token = variable.set(value)
    try:
        yield
    finally:
        variable.reset(token)
