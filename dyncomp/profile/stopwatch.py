"""How long each part of a network runs in one pass, told by the network's own ops, without waiting for anything."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from dyncomp.core.counter import Part, Scope

CALLS = 200
"""calls of an operator that does nothing, timed together"""


class Stopwatch:
    """A meter (`core.counter.Meter`): notes the time whenever another part of the network begins to run.

    On a processor by its clock; on a GPU by events on the stream, so that the times between them are the stream's own,
    with what it waits for, and add up to the whole.
    """

    def __init__(self, device: torch.device) -> None:
        self.cuda = device.type == "cuda"
        self._marks: list[tuple[Any, Scope]] = []
        self._stack: list[Scope] = []

    @contextmanager
    def scope(self, site: str, part: Part) -> Iterator[None]:
        """Inside, the time of this part of the site runs on, and that of no other."""
        with self._inside((site, part)):
            yield

    @contextmanager
    def around(self) -> Iterator[None]:
        """Inside, the time of the scope around the current one runs on."""
        with self._inside(self._stack[-2]):
            yield

    @contextmanager
    def measuring(self) -> Iterator[None]:
        """A whole pass, the last one forgotten; what is in no scope is under None."""
        self._marks = []
        with self._inside(None):
            yield

    def parts_ms(self) -> dict[Scope, float]:
        """Milliseconds by scope, which add up to the whole pass; waits for the device."""
        if self.cuda:
            torch.cuda.synchronize()
        found: dict[Scope, float] = defaultdict(float)
        for (begin, scope), (end, _) in zip(self._marks, self._marks[1:], strict=False):
            found[scope] += begin.elapsed_time(end) if self.cuda else (end - begin) / 1e6
        return dict(found)

    @property
    def total_ms(self) -> float:
        """Milliseconds of the whole pass; waits for the device."""
        return sum(self.parts_ms().values())

    @contextmanager
    def _inside(self, scope: Scope) -> Iterator[None]:
        self._stack.append(scope)
        self._mark(scope)
        try:
            yield
        finally:
            self._stack.pop()
            self._mark(self._stack[-1] if self._stack else None)

    def _mark(self, scope: Scope) -> None:
        if not self.cuda:
            self._marks.append((time.perf_counter_ns(), scope))
            return
        event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        event.record()
        self._marks.append((event, scope))


def call_ms(device: torch.device) -> float:
    """Milliseconds of a call that does nothing: a ReLU on one number, a module of its own."""
    module, x = nn.ReLU(), torch.zeros(1, device=device)
    found = []
    with torch.inference_mode():
        for _ in range(5):
            watch = Stopwatch(device)
            with watch.measuring():
                for _ in range(CALLS):
                    module(x)
            found.append(watch.total_ms / CALLS)
    return min(found)
