"""Measurement of MACs: the costs of every unit, and the executed MACs of a batch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor

from dyncomp.core.context import during, untimed
from dyncomp.core.counter import COUPLED, EACH, MacCounter
from dyncomp.core.decisions import all_on
from dyncomp.core.modes import evaluating
from dyncomp.core.net import Net
from dyncomp.core.pricing import Costs, SiteCost
from dyncomp.core.trace import Decision


def measure_costs(net: Net, images: Tensor) -> Costs:
    """Count the MACs of each unit and each gate in a pass of the first image of `images`, with every unit on.

    The pass is sparse, as in a deployed network. Costs are always measured, never given by a method's own formula.
    """
    image = images[:1]
    with evaluating(net), during(untimed, True), MacCounter() as counter:  # all equal forms cost the same
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


@dataclass(frozen=True)
class Executed:
    """Executed MACs over a batch, by operator, and the number of calls of operators without a known cost."""

    by_operator: Counter[str] = field(default_factory=Counter)
    uncounted: Counter[str] = field(default_factory=Counter)

    @property
    def macs(self) -> int:
        """MACs of all operators."""
        return self.by_operator.total()

    def __add__(self, other: Executed) -> Executed:
        return Executed(self.by_operator + other.by_operator, self.uncounted + other.uncounted)


def execute_and_count(net: Net, images: Tensor, decisions: Mapping[str, Decision] | None = None) -> Executed:
    """Count all operators of a sparse pass over images (B, C, H, W), by the gates' own or the given decisions."""
    with evaluating(net), MacCounter() as counter:
        net(images, sparse=True, decisions=decisions, record=False)
    return Executed(counter.by_operator, counter.uncounted)


def count_executed_macs(net: Net, images: Tensor, decisions: Mapping[str, Decision] | None = None) -> int:
    """Executed MACs of a sparse pass over all images; equal to `price(costs, trace).sum()`."""
    return execute_and_count(net, images, decisions).macs
