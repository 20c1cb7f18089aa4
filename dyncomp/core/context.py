"""Temporary values of context variables."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TypeVar

V = TypeVar("V")

untimed: ContextVar[bool] = ContextVar("untimed", default=False)
"""whether equal forms are taken without a trial of which is fastest: where a pass is run to be counted"""


@contextmanager
def during(variable: ContextVar[V], value: V) -> Iterator[None]:
    """Set the variable to `value` within the context, in this thread; its former value is restored afterwards."""
    token = variable.set(value)
    try:
        yield
    finally:
        variable.reset(token)
