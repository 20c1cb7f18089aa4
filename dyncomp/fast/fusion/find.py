"""Finds runs in Sequentials."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby

from torch import nn

from dyncomp.core.backbone import ResidualBlock
from dyncomp.fast.fusion.candidates import Deciding, Place, places_of_run
from dyncomp.fast.fusion.run import Run
from dyncomp.fast.layers.convolution import FusedSequential

Stretch = tuple[int, int, Sequence[Place]]
"""The index of the first layer, the index after the last one, and the layers' places in a run."""


def find_runs(model: nn.Module) -> None:
    """Give each `FusedSequential` the stretches of its layers that can run in one call."""
    for module in model.modules():
        if type(module) is not FusedSequential or module.joins_relus:
            continue
        layers, runs = list(module), dict[int, list[Run]]()
        # the longest runs and, if these do not pay off, runs of blocks alone
        for first, end, places in (*_stretches(layers, 0, len(layers)), *_of_blocks(layers)):
            known = any(len(run.layers) == end - first for run in runs.get(first, ()))
            if not known and (len(places) > 1 or _is_block(places[0])):
                runs.setdefault(first, []).append(Run(layers[first:end]))
        module.fused = runs


def _stretches(layers: Sequence[nn.Module], first: int, end: int) -> Iterator[Stretch]:
    """Stretches of layers[first:end] that can be runs: from the left, each as long as possible."""
    while first < end:
        tried = ((behind, places_of_run(layers[first:behind])) for behind in range(end, first, -1))
        behind, places = next(((behind, some) for behind, some in tried if some), (first + 1, None))
        if places:
            yield first, behind, places
        first = behind


def _of_blocks(layers: Sequence[nn.Module]) -> Iterator[Stretch]:
    """Stretches in which every layer consists of blocks."""
    alone = [places_of_run([layer]) or () for layer in layers]
    of_blocks = [bool(places) and all(map(_is_block, places)) for places in alone]
    for is_one, indices in groupby(range(len(layers)), of_blocks.__getitem__):
        first, *others = indices
        if is_one:
            yield from _stretches(layers, first, [first, *others][-1] + 1)


def _is_block(place: Place) -> bool:
    return isinstance(place, (Deciding, ResidualBlock))
