"""Finds runs in Sequentials."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from torch import nn

from dyncomp.core.backbone import ResidualBlock
from dyncomp.core.ready import ReadyBlocks
from dyncomp.core.runs.places import Deciding, Place, together
from dyncomp.core.runs.run import Run

Places = Sequence[Place]


def find_runs(model: nn.Module) -> None:
    """Put `ReadyBlocks` in the place of Sequentials that hold layers, made ready, that can run in one go."""
    for module in model.modules():
        if type(module) is nn.Sequential and "forward" not in vars(module):
            runs = _runs(list(module))
            if runs:
                module.__class__ = ReadyBlocks
                vars(module)["runs"] = runs


def _runs(layers: Sequence[nn.Module]) -> dict[int, list[Run]]:
    """By where they begin: of as many layers as there can be and, should one of these not pay, of blocks alone."""
    runs = dict[int, list[Run]]()
    for may in (lambda places: True, lambda places: all(map(_is_block, places))):
        for first, end, places in _stretches(layers, may):
            known = any(len(run.layers) == end - first for run in runs.get(first, ()))
            if not known and (len(places) > 1 or _is_block(places[0])):
                runs.setdefault(first, []).append(Run(layers[first:end]))
    return runs


def _stretches(layers: Sequence[nn.Module], may: Callable[[Places], bool]) -> Iterator[tuple[int, int, Places]]:
    """From, up to without: layers next to one another that can be a run."""
    first = 0
    while first < len(layers):
        ends = ((end, together(layers[first:end])) for end in range(len(layers), first, -1))
        end, places = next(((end, some) for end, some in ends if some and may(some)), (first + 1, None))
        if places:
            yield first, end, places
        first = end


def _is_block(place: Place) -> bool:
    return isinstance(place, (Deciding, ResidualBlock))
