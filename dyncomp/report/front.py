"""Of networks ordered by cost, those that no cheaper one equals."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TypeVar

T = TypeVar("T")


def front(items: Iterable[T], accuracy: Callable[[T], float]) -> list[T]:
    """Those of `items`, the cheapest first, that are more accurate than all before them."""
    found: list[T] = []
    for item in items:
        if not found or accuracy(item) > accuracy(found[-1]):
            found.append(item)
    return found
