"""Costs of a network's units in MACs, and the price of an image by its decisions; `measure.py` measures the costs.

Convention: MACs, one per multiply-add of convolutions, linear layers and matrix products, gates and kernel mixing
included; `flops = 2 * macs`.

    price_i = always + sum over sites of reach_i * (overhead + sum over units u of used_iu * cost_u)

Where a site's units read the used units of another site (the filters of a convolution whose input filters are switched
too), each pair of used units adds `coupled`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from dyncomp.core.trace import Parent, Trace


@dataclass(frozen=True)
class SiteCost:
    """MACs for one image at one site: its overhead whenever it is reached, and each unit when it is used.

    `coupled` is paid for each pair of a used unit here and a used unit of the site `reads`.
    """

    overhead: int
    units: tuple[int, ...]
    parent: Parent
    coupled: int = 0
    reads: str | None = None


@dataclass(frozen=True)
class Costs:
    """MACs of one image of shape `image_shape` (C, H, W): what always runs, and every site's.

    `uncounted` names operators that ran and have no known cost.
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
        """MACs of all units of a site, everything on."""
        cost = self.sites[site]
        read = len(self.sites[cost.reads].units) if cost.reads else 0
        return sum(cost.units) + cost.coupled * len(cost.units) * read

    @property
    def overhead(self) -> int:
        """MACs of all gates, routers and kernel mixing, every site reached."""
        return sum(c.overhead for c in self.sites.values())

    @property
    def without_overhead(self) -> int:
        """MACs with every unit on and gates free of charge: for a gated backbone, the plain backbone's."""
        return self.full - self.overhead


def price(costs: Costs, trace: Trace) -> Tensor:
    """MACs of each image by its decisions, (B,) float64: exact integers, differentiable where decisions are.

    Raises ValueError for a trace without the sites that the costs name (a pass with `record=False`).
    """
    missing = costs.sites.keys() - trace.keys()
    if missing:
        raise ValueError(f"the trace has no decision for {min(missing)}: run the network with record=True")
    device = next((d.used.device for d in trace.values()), None)
    total = torch.full((trace.images,), float(costs.always), dtype=torch.float64, device=device)
    for site, cost in costs.sites.items():
        used = trace[site].used.double()  # (B, U)
        macs = cost.overhead + _used_macs(cost.units, used)
        if cost.reads is not None:
            macs = macs + cost.coupled * used.sum(dim=1) * trace[cost.reads].used.double().sum(dim=1)
        total = total + trace.reach(site) * macs
    return total


def _used_macs(units: tuple[int, ...], used: Tensor) -> Tensor | float:
    """MACs of the units that each image uses, (B,); equal units without a copy to the device."""
    if len(set(units)) == 1:
        return used.sum(dim=1) * units[0] if units[0] else 0.0
    return used @ used.new_tensor(units)
