"""Costs of a network's units in MACs, and the price of an image by its decisions; `measure.py` measures the costs.

Convention: one MAC per multiply-add of convolutions, linear layers and matrix products, gates and kernel mixing
included; `flops = 2 * macs`.

    price_i = always + sum over sites of reach_i * (overhead + sum over units u of used_iu * cost_u)

If a site's units read the used units of another site (filters of a convolution whose input channels are switched
filters), each pair of used units adds `coupled`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from dyncomp.core.trace import Parent, Trace


@dataclass(frozen=True)
class SiteCost:
    """MACs of one image at one site: the overhead if the image reaches the site, and each unit if it is used.

    `coupled`: MACs of each pair of a used unit of this site and a used unit of the site `reads`.
    """

    overhead: int
    units: tuple[int, ...]
    parent: Parent
    coupled: int = 0
    reads: str | None = None


@dataclass(frozen=True)
class Costs:
    """MACs of one image of shape `image_shape` (C, H, W): of what always runs, and of every site.

    `uncounted`: names of executed operators without a known cost.
    """

    always: int
    sites: Mapping[str, SiteCost]
    image_shape: tuple[int, ...]
    uncounted: tuple[str, ...]

    @property
    def full(self) -> int:
        """MACs with every unit on."""
        return self.always + self.overhead + sum(self.of_units(site) for site in self.sites)

    def of_units(self, site: str) -> int:
        """MACs of all units of a site, with every unit on."""
        cost = self.sites[site]
        read = len(self.sites[cost.reads].units) if cost.reads else 0
        return sum(cost.units) + cost.coupled * len(cost.units) * read

    @property
    def overhead(self) -> int:
        """MACs of all gates, routers and kernel mixing, for an image that reaches every site."""
        return sum(c.overhead for c in self.sites.values())

    @property
    def without_overhead(self) -> int:
        """MACs with every unit on, without overhead: for a gated backbone those of the plain backbone."""
        return self.full - self.overhead


def price(costs: Costs, trace: Trace) -> Tensor:
    """MACs of each image by its decisions, (B,) float64: exact integers, differentiable if decisions are.

    Raises ValueError for a trace that lacks sites of the costs, as after a pass with `record=False`.
    """
    missing = costs.sites.keys() - trace.keys()
    if missing:
        raise ValueError(f"the trace has no decision for {min(missing)}: run the network with record=True")
    device = next((d.used.device for d in trace.values()), None)
    total = torch.full((trace.images,), float(costs.always), dtype=torch.float64, device=device)
    for site, cost in costs.sites.items():
        used = trace[site].used.double()  # (B, U)
        macs: Tensor | float = cost.overhead
        if len(set(cost.units)) != 1:
            macs = macs + used @ used.new_tensor(cost.units)
        elif cost.units[0]:  # units of equal cost need no copy to the device
            macs = macs + used.sum(dim=1) * cost.units[0]
        if cost.reads is not None:
            macs = macs + cost.coupled * used.sum(dim=1) * trace[cost.reads].used.double().sum(dim=1)
        total = total + trace.reach(site) * macs
    return total
