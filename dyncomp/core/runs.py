"""Runs of residual blocks in one go: gates and bodies, one after the other, by machine code of our own.

Between the blocks nothing comes back here: a gate leaves the list of images that its body reads. For a single image
that is the difference between a few microseconds for each block and a few dozen.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from operator import is_
from typing import Any

import torch
from torch import Tensor, nn

from dyncomp.core import direct
from dyncomp.core.backbone import ResidualBlock
from dyncomp.core.gated import Gated
from dyncomp.core.mixed import Mixed
from dyncomp.core.planned import Follower
from dyncomp.core.run_block import Place, block_of, is_place
from dyncomp.core.run_table import RunTable
from dyncomp.core.tuner import is_watched, power_of_two, takes_turns
from dyncomp.core.watched import Watched

BATCHES = 8
"""sizes and kinds of batches that a run is prepared for"""


class Run:
    """Blocks one after the other, in so many `layers` of a Sequential."""

    def __init__(self, places: Sequence[Place], layers: Sequence[nn.Module]) -> None:
        self.places, self.layers = tuple(places), tuple(layers)
        self._watched: Watched | None = None
        self._tables: dict[tuple[object, ...], RunTable | None] = {}

    def __call__(self, x: Tensor) -> Tensor | None:
        """What the blocks make of x; None where they have to be called one by one."""
        if is_watched() or not len(x) or not self._may_run():  # first: a compiler need not look at the rest
            return None
        watched = self._watched
        if watched is None or not watched.is_the_same():
            watched = self._watched = Watched(module for layer in self.layers for module in layer.modules())
            self._tables.clear()
        if not watched.nobody_listens() or not self._serves(x):
            return None
        table = self._table(x)
        return None if table is None else table.run(x)

    def _serves(self, x: Tensor) -> bool:
        """Whether code of our own can run on x, by the first layer with weights."""
        for layer in block_of(self.places[0]).body.modules():
            weight = layer._parameters.get("weight")
            if weight is not None:
                return direct.serves(x, weight)
        return False

    @property
    def _place(self) -> Gated | Follower | Mixed | None:
        """One that decides, or is decided about: what holds for it in a pass holds for all, all of one network."""
        return next((place for place in self.places if not isinstance(place, ResidualBlock)), None)

    def _may_run(self) -> bool:
        """Whether nobody asks for more, in this pass, than what comes out."""
        if isinstance(self._place, (Gated, Mixed)):
            return self._place.tape.silent and self._place.tape.rows is None
        return self._place is None or self._place.rows() is not None

    def _table(self, x: Tensor) -> RunTable | None:
        key = (power_of_two(len(x)), x.shape[1:], x.dtype, torch.get_num_threads(), threading.get_ident())
        if key in self._tables:
            return self._tables[key]
        table = RunTable.of(self.places, x)
        if not takes_turns():
            while len(self._tables) >= BATCHES:
                self._tables.pop(next(iter(self._tables)), None)
            self._tables[key] = table
        return table

    def __getstate__(self) -> dict[str, Any]:
        """Without what was prepared, which is made anew where the copy is used."""
        return {"places": self.places, "layers": self.layers, "_watched": None, "_tables": {}}


class ReadyBlocks(nn.Sequential):
    """Layers one after another, runs of blocks in one go wherever that is faster."""

    def forward(self, x: Any) -> Any:
        """As `nn.Sequential` does."""
        runs, layers = self._runs, list(self)
        index = 0
        while index < len(layers):
            run = runs.get(index) if isinstance(x, Tensor) else None
            # layers may have been replaced, and then the run is not theirs
            y = run(x) if run is not None and all(map(is_, layers[index:], run.layers)) else None
            if run is None or y is None:
                x, index = layers[index](x), index + 1
            else:
                x, index = y, index + len(run.layers)
        return x

    @property
    def _runs(self) -> dict[int, Run]:
        """By where they begin."""
        found: dict[int, Run] = vars(self).get("runs", {})
        return found


def find_runs(model: nn.Module) -> None:
    """Put `ReadyBlocks` in the place of Sequentials that hold blocks one after the other, made ready."""
    for module in model.modules():
        if type(module) is nn.Sequential and "forward" not in vars(module):
            runs = _runs(list(module))
            if runs:
                module.__class__ = ReadyBlocks
                vars(module)["runs"] = runs


def _runs(layers: Sequence[nn.Module]) -> dict[int, Run]:
    """By where they begin; a layer may be a Sequential of blocks."""
    runs, first, some = dict[int, Run](), 0, list[Place]()
    for index, layer in enumerate([*layers, None]):
        places = [] if layer is None else _places(layer)
        places = places if _go_together(places) else []
        if not places or not _go_together([*some, *places]):
            if len(some) > 1 or isinstance(next(iter(some), None), (Gated, Mixed)):
                runs[first] = Run(some, layers[first:index])
            first, some = index, []
        first = first if some else index
        some += places
    return runs


def _places(layer: nn.Module) -> list[Place]:
    """The blocks that a layer is made of; none where it is made of anything else, too."""
    if is_place(layer):
        return [layer]
    if type(layer) not in (nn.Sequential, ReadyBlocks) or "forward" in vars(layer):
        return []
    parts = [_places(part) for part in layer.children()]
    return [place for part in parts for place in part] if all(parts) else []


def _go_together(places: Sequence[Place]) -> bool:
    """Whether those that are not for all images, and plain, are of one kind and skipped alike."""
    others = [place for place in places if not isinstance(place, ResidualBlock)]
    return len({(type(place), getattr(place, "form", None)) for place in others}) < 2
