"""Decisions for callers to force: all units, the fewest allowed, random units."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from dyncomp.core.net import Net
from dyncomp.core.op import Op
from dyncomp.core.trace import Decision


def all_on(net: Net, images: int) -> dict[str, Decision]:
    """Every unit used with weight 1, for a batch of `images` images."""
    return _for_all(net, lambda op: _alike(torch.ones(images, op.units)))


def least(net: Net, images: int) -> dict[str, Decision]:
    """The fewest units that each op allows."""
    return _for_all(net, lambda op: _alike(op.least().expand(images, -1)))


def random(net: Net, images: int, generator: torch.Generator) -> dict[str, Decision]:
    """Each unit used with probability 1/2, and with a random weight, as far as the op allows."""

    def draw(op: Op) -> tuple[Tensor, Tensor]:
        coin = torch.rand(images, op.units, generator=generator, dtype=torch.float64)
        weight = torch.rand(images, op.units, generator=generator, dtype=torch.float64)
        return (coin < 0.5).to(coin), weight

    return _for_all(net, draw)


def _alike(used: Tensor) -> tuple[Tensor, Tensor]:
    return used, used


def _for_all(net: Net, wish: Callable[[Op], tuple[Tensor, Tensor]]) -> dict[str, Decision]:
    return {site: op.forced(*wish(op)) for site, op in net.sites.items()}
