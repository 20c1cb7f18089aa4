"""Rules: what decides in a gate's place without looking at the features, for controls.

A rule knows one rate for each unit. `Constant` decides alike for all images; `Coin` draws for each image. Whoever is
no better than its rule has gates that might as well be blind.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from binascii import crc32
from typing import ClassVar

import torch
from torch import Tensor, nn

from dyncomp.core.tape import Taped

SEEDS = "seeds"
"""the key under which each image's seed is remembered in a pass"""
MODULUS = 2**32


class Rule(Taped, ABC):
    """Images (B) -> which of U units each of them uses, (B, U) of 0 and 1.

    `rates` (U,), a buffer, are the shares of the images that use each unit. `weights` (U,), which are learnt, are those
    of units in use, where the op's output depends on weights.
    """

    begins_at: ClassVar[float] = 1.0
    """the rate of every unit until others are set"""

    def __init__(self, units: int, weighted: bool = False) -> None:
        super().__init__()
        self.units = units
        self.register_buffer("rates", torch.full((units,), self.begins_at))
        self.rates: Tensor
        self.weights = nn.Parameter(torch.ones(units)) if weighted else None

    @abstractmethod
    def scores(self, like: Tensor) -> Tensor:
        """(B, U), from 0 to 1, of as many images as `like` (B, ...) has: a unit is used where it is above 1/2.

        Where an op takes a fixed number of units, it takes those of the greatest.
        """

    def forward(self, like: Tensor) -> Tensor:
        """(B, U) of 0 and 1, for as many images as `like` has."""
        return (self.scores(like) > 0.5).to(self.rates)


class Constant(Rule):
    """Decides alike for all images: a unit is used where its rate is above 1/2."""

    def scores(self, like: Tensor) -> Tensor:
        """The rates themselves."""
        return self.rates.expand(like.shape[0], -1)


class Coin(Rule):
    """Uses each unit for a random share of the images, its rate, whatever they show.

    Where an op takes a fixed number of units, those of the greatest scores, the rates are met roughly only. In training
    each pass draws again. In use the draw follows from the image's pixels alone (see `Seeds`): it is the same in
    every form and batch.
    """

    begins_at = 0.5

    def scores(self, like: Tensor) -> Tensor:
        """Of a uniform u and the rate r: above 1/2 where u < r, so with the chance r."""
        uniform, rates = self._uniform(like), self.rates.clamp(1e-6, 1 - 1e-6)  # (B, U), (U,)
        used = 1 - uniform / rates / 2
        unused = (1 - (uniform - rates) / (1 - rates)) / 2
        drawn = torch.where(uniform < rates, used, unused)
        return torch.where((self.rates > 0) & (self.rates < 1), drawn, self.rates)

    def _uniform(self, like: Tensor) -> Tensor:
        if self.training:
            return torch.rand(like.shape[0], self.units, device=like.device).to(self.rates)
        seeds = self.tape.recall(SEEDS, torch.zeros(like.shape[0], 1, dtype=torch.long, device=like.device))  # (B, 1)
        units = torch.arange(self.units, device=like.device) * 40503 + crc32(self.site.encode())  # (U,)
        return (_mixed(seeds + units) / MODULUS).to(self.rates)  # (B, U)


class Seeds(Taped):
    """Images (B, C, H, W) as they are; remembers for each one a number that follows from its pixels, for `Coin`."""

    def forward(self, images: Tensor) -> Tensor:
        """See the class."""
        pixels = (images.detach().double() * 1024).round().long().flatten(1)  # (B, C*H*W)
        places = torch.arange(1, pixels.shape[1] + 1, device=images.device) * 2654435761 % MODULUS
        self.tape.remember(SEEDS, (pixels * places).sum(1, keepdim=True) % MODULUS)  # (B, 1)
        return images


def _mixed(numbers: Tensor) -> Tensor:
    """Whole numbers (...) to others from 0 to 2^32 that look random (multiplication and folding, wrapping around)."""
    numbers = numbers % MODULUS
    for factor in (2654435761, 2246822519, 3266489917):
        numbers = (numbers ^ (numbers // 65536)) * factor % MODULUS
    return numbers ^ (numbers // 65536)
