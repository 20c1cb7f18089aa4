"""Rules: substitutes for gates that decide without reading the features, for controls.

A rule has one rate for each unit. `Constant` decides alike for all images; `Coin` draws for each image. A method that
is no better than its control gains nothing from its gates.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from binascii import crc32
from typing import ClassVar

import torch
from torch import Tensor, nn

from dyncomp.core.tape import Taped

SEEDS = "seeds"
"""the key on the tape of each image's seed"""
MODULUS = 2**32


class Rule(Taped, ABC):
    """Decides which of U units each of B images uses, (B, U) of 0 and 1.

    `rates` (U,), a buffer: the share of the images that use each unit. `weights` (U,), a parameter: the weights of used
    units; None for ops whose output does not depend on weights.
    """

    begins_at: ClassVar[float] = 1.0
    """initial rate of every unit"""

    def __init__(self, units: int, weighted: bool = False) -> None:
        super().__init__()
        self.units = units
        self.register_buffer("rates", torch.full((units,), self.begins_at))
        self.rates: Tensor
        self.weights = nn.Parameter(torch.ones(units)) if weighted else None

    @abstractmethod
    def scores(self, like: Tensor) -> Tensor:
        """Scores (B, U) from 0 to 1, for the B images of `like` (B, ...): a unit with a score above 1/2 is used.

        An op with a fixed number of units takes the units of the greatest scores.
        """

    def forward(self, like: Tensor) -> Tensor:
        """Used units (B, U), 0 or 1, for the B images of `like` (B, ...)."""
        return (self.scores(like) > 0.5).to(self.rates)


class Constant(Rule):
    """Decides alike for all images: a unit with a rate above 1/2 is used."""

    def scores(self, like: Tensor) -> Tensor:
        """The rates."""
        return self.rates.expand(like.shape[0], -1)


class Coin(Rule):
    """Uses each unit for a random choice of images, with a probability equal to its rate.

    In an op with a fixed number of units the rates are met only approximately. In training each pass draws anew. In
    evaluation the draw is a hash of the image's pixels (see `Seeds`), so that it is the same in every form and batch.
    """

    begins_at = 0.5

    def scores(self, like: Tensor) -> Tensor:
        """Scores from a uniform u and the rate r: above 1/2 where u < r, hence with probability r."""
        if self.training:
            uniform = torch.rand(like.shape[0], self.units, device=like.device).to(self.rates)  # (B, U)
        else:
            nothing = torch.zeros(like.shape[0], 1, dtype=torch.long, device=like.device)
            seeds = self.tape.recall(SEEDS, nothing)  # (B, 1)
            units = torch.arange(self.units, device=like.device) * 40503 + crc32(self.site.encode())  # (U,)
            uniform = (_mixed(seeds + units) / MODULUS).to(self.rates)  # (B, U)
        rates = self.rates.clamp(1e-6, 1 - 1e-6)  # (U,)
        used = 1 - uniform / rates / 2
        unused = (1 - (uniform - rates) / (1 - rates)) / 2
        drawn = torch.where(uniform < rates, used, unused)
        return torch.where((self.rates > 0) & (self.rates < 1), drawn, self.rates)


class Seeds(Taped):
    """Returns images (B, C, H, W) unchanged, and remembers a hash of each one's pixels, for `Coin`."""

    def forward(self, images: Tensor) -> Tensor:
        """See the class."""
        pixels = (images.detach().double() * 1024).round().long().flatten(1)  # (B, C*H*W)
        places = torch.arange(1, pixels.shape[1] + 1, device=images.device) * 2654435761 % MODULUS
        self.tape.remember(SEEDS, (pixels * places).sum(1, keepdim=True) % MODULUS)  # (B, 1)
        return images


def _mixed(numbers: Tensor) -> Tensor:
    """Hash integers (...) to integers from 0 to 2^32 - 1 (multiply and xor-shift, modulo 2^32)."""
    numbers = numbers % MODULUS
    for factor in (2654435761, 2246822519, 3266489917):
        numbers = (numbers ^ (numbers // 65536)) * factor % MODULUS
    return numbers ^ (numbers // 65536)
