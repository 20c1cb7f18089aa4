"""What each unit costs, measured; what an image's decisions cost, priced; what really ran, counted.

Convention: MACs, one per multiply-add of convolutions, linear layers and matrix products, gates and kernel mixing
included; `flops = 2 * macs`.

    price_i = always + sum over sites of reach_i * (overhead + sum over units u of used_iu * cost_u)
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from dyncomp.core.counter import MacCounter
from dyncomp.core.trace import Decision, Parent, Trace

if TYPE_CHECKING:
    from dyncomp.core.net import Net


@dataclass(frozen=True)
class SiteCost:
    """MACs for one image at one site: its overhead whenever it is reached, and each unit when it is used."""

    overhead: int
    units: tuple[int, ...]
    parent: Parent


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
        return self.always + sum(c.overhead + sum(c.units) for c in self.sites.values())

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
    with _evaluating(net), MacCounter() as counter:
        net.tape.meter = counter
        try:
            net(image, sparse=True, decisions=all_on(net, 1), record=False)
        finally:
            net.tape.meter = None
    macs = counter.by_scope
    sites = {
        site: SiteCost(
            macs[(site, None)],
            tuple(macs[(site, unit)] for unit in range(op.units)),
            net.parents[site],
        )
        for site, op in net.sites.items()
    }
    return Costs(macs[None], sites, tuple(image.shape[1:]), tuple(sorted(counter.uncounted)))


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
        total = total + trace.reach(site) * (cost.overhead + _used_macs(cost.units, trace[site].used.double()))
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
    with _evaluating(net), MacCounter() as counter:
        net(images, sparse=True, decisions=decisions, record=False)
    return Executed(counter.by_operator, counter.uncounted)


def count_executed_macs(net: Net, images: Tensor, decisions: Mapping[str, Decision] | None = None) -> int:
    """MACs of the operators that ran in the sparse form over all images; equals `price(costs, trace).sum()`."""
    return execute_and_count(net, images, decisions).macs


@contextmanager
def _evaluating(net: nn.Module) -> Iterator[None]:
    """Evaluation mode without gradients inside; afterwards every module is in the mode that it was in."""
    training = [module for module in net.modules() if module.training]
    net.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module in training:
            module.training = True
