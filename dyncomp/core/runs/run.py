"""Runs of layers in one go: gates, switches and bodies, one after the other, by machine code of our own.

Between the layers nothing comes back here: a gate leaves the list of images that its body reads. For a single image
that is the difference between a few microseconds for each block and a few dozen.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from dyncomp.core import direct
from dyncomp.core.planned import Follower
from dyncomp.core.runs.places import Deciding, Place, deciding, together
from dyncomp.core.runs.table import RunTable
from dyncomp.core.runs.watched import Watched
from dyncomp.core.tuner import is_watched, power_of_two, takes_turns

BATCHES = 8
"""sizes and kinds of batches that a run is prepared for"""


class Run:
    """Parts one after the other, in so many `layers` of a Sequential."""

    def __init__(self, layers: Sequence[nn.Module]) -> None:
        self.layers = tuple(layers)
        self._forget()

    def _forget(self) -> None:
        self.places: Sequence[Place] = ()
        self._op: Deciding | None = None
        self._watched: Watched | None = None
        self._weighted: nn.Module | None = None
        self._tables: dict[tuple[object, ...], RunTable | None] = {}

    def _look(self) -> Watched:
        """At what the layers are now."""
        self._forget()
        self.places = together(self.layers) or []
        # one that decides: what holds for it in a pass holds for all, all of one network
        self._op = next(deciding(self.places), None)
        modules = [module for layer in self.layers for module in layer.modules()]
        self._weighted = next((module for module in modules if "weight" in module._parameters), None)
        self._watched = watched = Watched(modules)
        return watched

    def __call__(self, x: Tensor) -> Tensor | None:
        """What the layers make of x; None where they have to be called one by one."""
        if is_watched() or not x.shape[0]:  # first: a compiler need not look at the rest
            return None
        watched = self._watched or self._look()
        if not self._may_run():
            return None
        key = (power_of_two(x.shape[0]), x.shape[1:], x.dtype, torch.get_num_threads(), threading.get_ident())
        if self._tables.get(key, self) is None:
            return None
        if not watched.is_the_same():
            watched = self._look()
            if not self._may_run():
                return None
        if not watched.nobody_listens() or not self._serves(x):
            return None
        table = self._table(key, x)
        return None if table is None else table.run(x)

    def _serves(self, x: Tensor) -> bool:
        """Whether code of our own can run on x, by the first layer with weights."""
        weight = None if self._weighted is None else self._weighted._parameters["weight"]
        return weight is not None and direct.serves(x, weight)

    def _may_run(self) -> bool:
        """Whether nobody asks for more, in this pass, than what comes out."""
        if isinstance(self._op, Follower):
            return self._op.rows() is not None
        return self._op is None or (self._op.tape.silent and self._op.tape.rows is None)

    def _table(self, key: tuple[object, ...], x: Tensor) -> RunTable | None:
        known = self._tables.get(key)
        if known is not None:
            return known
        table = RunTable.of(self.places, x) if self.places else None
        if not takes_turns():
            while len(self._tables) >= BATCHES:
                self._tables.pop(next(iter(self._tables)), None)
            self._tables[key] = table
        return table

    def __getstate__(self) -> dict[str, Any]:
        """The layers alone: what was prepared is made anew where the copy is used."""
        return {"layers": self.layers}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.layers = state["layers"]
        self._forget()
