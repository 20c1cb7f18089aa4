"""What each unit costs, measured; what an image's decisions cost, priced; what really ran, counted.

Convention: MACs, one per multiply-add of convolutions, linear layers and matrix products, gates and kernel mixing
included; `flops = 2 * macs`.

    price_i = always + sum over sites of reach_i * (overhead + sum over units u of used_iu * cost_u)

Where a site's units read the used units of another site (the filters of a convolution whose input filters are switched
too), each pair of used units adds `coupled`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from dyncomp.core.counter import COUPLED, EACH, MacCounter
from dyncomp.core.modes import evaluating
from dyncomp.core.trace import Decision, Parent, Trace

if TYPE_CHECKING:
    from dyncomp.core.net import Net


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


def measure_costs(net: Net, images: Tensor) -> Costs:
    """Run one image (1, C, H, W) with every unit on, and note what each unit and each gate executed.

    Measured in the sparse form, the one that is deployed; never an author's formula.
    """
    from dyncomp.core.decisions import all_on

    image = images[:1]
    with evaluating(net), MacCounter() as counter:
        net(image, sparse=True, decisions=all_on(net, 1), record=False, meter=counter)
    sites = {site: _site_cost(net, site, counter) for site in net.sites}
    return Costs(counter.by_scope[None], sites, tuple(image.shape[1:]), tuple(sorted(counter.uncounted)))


def _site_cost(net: Net, site: str, counter: MacCounter) -> SiteCost:
    op, macs = net.sites[site], counter.by_scope
    each = macs[(site, EACH)] // op.units
    own = [macs[(site, unit)] + each for unit in range(op.units)]
    for scope, ran in macs.items():
        if scope is not None and scope[0] == site and isinstance(scope[1], range):
            for unit in scope[1]:
                own[unit] += ran // len(scope[1])
    units = tuple(own)
    if op.reads is None:
        return SiteCost(macs[(site, None)], units, net.parents[site])
    coupled = macs[(site, COUPLED)] // (op.units * op.reads.units)
    return SiteCost(macs[(site, None)], units, net.parents[site], coupled, op.reads.site)


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


@dataclass(frozen=True)
class Executed:
    """What really ran: MACs over all images given, by operator, and the calls of operators without a known cost."""

    by_operator: Counter[str] = field(default_factory=Counter)
    uncounted: Counter[str] = field(default_factory=Counter)

    @property
    def macs(self) -> int:
        """MACs of all operators."""
        return self.by_operator.total()

    def __add__(self, other: Executed) -> Executed:
        return Executed(self.by_operator + other.by_operator, self.uncounted + other.uncounted)


def execute_and_count(net: Net, images: Tensor, decisions: Mapping[str, Decision] | None = None) -> Executed:
    """Run the sparse form on images (B, C, H, W), by its own or the given decisions; count every operator that ran."""
    with evaluating(net), MacCounter() as counter:
        net(images, sparse=True, decisions=decisions, record=False)
    return Executed(counter.by_operator, counter.uncounted)


def count_executed_macs(net: Net, images: Tensor, decisions: Mapping[str, Decision] | None = None) -> int:
    """MACs of the operators that ran in the sparse form over all images; equals `price(costs, trace).sum()`."""
    return execute_and_count(net, images, decisions).macs
