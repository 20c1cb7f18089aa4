"""MSDNet's layers (Huang et al. 2018, arXiv:1703.09844, section 3): a tuple of maps in, the finest first, and out."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor, nn

from dyncomp.backbones._layers import activated

Maps = tuple[Tensor, ...]
"""One map per scale, (B, C_s, H / 2**s, W / 2**s)."""


class Pyramid(nn.Module):
    """The stem: from an image (B, inputs, H, W) one map per scale, each made of the next finer one."""

    def __init__(self, inputs: int, channels: Sequence[int], kind: Literal["cifar", "imagenet"]) -> None:
        super().__init__()
        first = activated(inputs, channels[0], *((3, 1) if kind == "cifar" else (7, 2)))
        if kind == "imagenet":
            first.add_module("pool", nn.MaxPool2d(3, 2, 1))
        coarser = (activated(fine, coarse, 3, 2) for fine, coarse in pairwise(channels))
        self.scales = nn.ModuleList([first, *coarser])

    def forward(self, images: Tensor) -> Maps:
        """Images (B, C, H, W) -> one map per scale."""
        maps = []
        x = images
        for scale in self.scales:
            x = scale(x)
            maps.append(x)
        return tuple(maps)


class DenseLayer(nn.Module):
    """At every scale that goes on: the map itself, beside what is made of the next finer map and of itself.

    `skipped` is how many of the finest maps that come in do not go on; the finest that does may still be made of one.
    """

    def __init__(self, same: Sequence[nn.Module], finer: Sequence[nn.Module | None], skipped: int) -> None:
        super().__init__()
        self.same = nn.ModuleList(same)
        self.finer = nn.ModuleList([nn.Identity() if module is None else module for module in finer])
        self.reads_finer = [module is not None for module in finer]
        self.skipped = skipped

    def forward(self, maps: Maps) -> Maps:
        """One map per scale in, one for each that goes on out, with more channels."""
        made = []
        for index, (same, finer) in enumerate(zip(self.same, self.finer, strict=True)):
            x = maps[index + self.skipped]
            parts = [x, finer(maps[index + self.skipped - 1])] if self.reads_finer[index] else [x]
            made.append(torch.cat([*parts, same(x)], dim=1))  # (B, C_s + growth * factor_s, ...)
        return tuple(made)


class Transition(nn.Module):
    """A 1x1 convolution on every map: from `inputs` to `outputs` channels, times each scale's factor."""

    def __init__(self, inputs: int, outputs: int, factors: Sequence[int]) -> None:
        super().__init__()
        self.scales = nn.ModuleList(activated(inputs * factor, outputs * factor, 1) for factor in factors)

    def forward(self, maps: Maps) -> Maps:
        """One map per scale -> one map per scale."""
        return tuple(scale(x) for scale, x in zip(self.scales, maps, strict=True))


class Coarsest(nn.Module):
    """The map that classifiers read, (B, C, H, W), of one map per scale."""

    def forward(self, maps: Maps) -> Tensor:
        """One map per scale -> the coarsest."""
        return maps[-1]


@dataclass(frozen=True)
class Scales:
    """What the layers of a network share: each scale's factor on channels, its bottleneck, and their growth."""

    factors: tuple[int, ...]
    bottlenecks: tuple[int, ...]
    growth: int

    def layer(self, width: int, came: int, goes: int) -> DenseLayer:
        """A layer for maps of `width` times their factor in channels, from scale `came` on, that passes on `goes` on.

        A scale with a finer one gives half of its new channels to what is made of that, half to its own.
        """
        same: list[nn.Module] = []
        finer: list[nn.Module | None] = []
        for scale in range(goes, len(self.factors)):
            added = self.growth * self.factors[scale]
            half = added // 2 if scale > came else 0
            finer.append(self._convolution(width, scale - 1, half, 2) if half else None)
            same.append(self._convolution(width, scale, added - half, 1))
        return DenseLayer(same, finer, goes - came)

    def _convolution(self, width: int, scale: int, outputs: int, stride: int) -> nn.Sequential:
        inputs = width * self.factors[scale]
        inner = min(inputs, self.bottlenecks[scale] * outputs)
        return nn.Sequential(OrderedDict(reduce=activated(inputs, inner, 1), conv=activated(inner, outputs, 3, stride)))


@dataclass(frozen=True)
class Reduction:
    """Which scales are left behind each of a network's layers, counted from 1 (section 4, network reduction)."""

    layers: int
    scales: int
    prune: bool

    def finest(self, layer: int) -> int:
        """The finest scale that layer passes on: those that are dropped, and those that nothing would read, are not."""
        unread = self.scales - 1 - (self.layers - layer) if layer else 0
        return max(self._dropped(layer), unread, 0)

    def drops(self, layer: int) -> bool:
        """Whether the layer is the first behind which a scale is dropped."""
        return self._dropped(layer) > self._dropped(layer - 1)

    def _dropped(self, layer: int) -> int:
        """The layers are cut into as many equal parts as there are scales, and each part has one scale less."""
        return max(0, layer - 1) // -(-self.layers // self.scales) if self.prune else 0


def scales_for(side: int, most: int) -> int:
    """How many scales, up to `most`, leave the coarsest at least 2 pixels of `side`: side > 2**(scales - 1)."""
    return max(1, min(most, (side - 1).bit_length()))
