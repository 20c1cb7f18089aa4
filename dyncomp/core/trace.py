"""Decisions, and the trace that holds the decisions of a pass."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

Parent = tuple[str, int] | None
"""The unit (site, index) that contains a site; None for a site that every image reaches."""


@dataclass(frozen=True)
class Decision:
    """One site's decision for a batch: which units each image uses, and with what weight.

    All three tensors are (B, U). `used` is 0 or 1 and determines the price; it may carry a straight-through gradient.
    `weight` multiplies a unit's share in the output. `probability`: the probability that a sampling gate uses the unit.
    """

    used: Tensor
    weight: Tensor
    probability: Tensor

    def map(self, change: Callable[[Tensor], Tensor]) -> Decision:
        """Apply `change` to each of the three tensors; tensors that are one object stay one object."""
        used = change(self.used)
        weight = used if self.weight is self.used else change(self.weight)
        known = {id(self.used): used, id(self.weight): weight}.get(id(self.probability))
        return Decision(used, weight, change(self.probability) if known is None else known)


class Trace(Mapping[str, Decision]):
    """The decisions of a pass, site -> Decision over the whole batch; together they are the routes of the images.

    In the sparse form the rows of images that do not reach a nested site are zero.
    """

    def __init__(self, decisions: Mapping[str, Decision], parents: Mapping[str, Parent], images: int) -> None:
        self._decisions = dict(decisions)
        self.parents = dict(parents)
        self.images = images

    def __getitem__(self, site: str) -> Decision:
        return self._decisions[site]

    def __iter__(self) -> Iterator[str]:
        return iter(self._decisions)

    def __len__(self) -> int:
        return len(self._decisions)

    def reach(self, site: str) -> Tensor | float:
        """Each image's reach of the site: the parent's reach times the parent's decision, (B,) or 1."""
        parent = self.parents.get(site)
        if parent is None:
            return 1.0
        return self.reach(parent[0]) * self[parent[0]].used[:, parent[1]]  # (B,)

    def executed(self, site: str) -> Tensor:
        """The units of the site that run for each image, used and reached, (B, U)."""
        reach = self.reach(site)
        used = self[site].used
        return used * reach[:, None] if isinstance(reach, Tensor) else used  # (B, U)

    def routes(self) -> Tensor:
        """Each image's route, (B, sum of U) bool: for all units of all sites, in order, whether the unit runs."""
        if not self:
            return torch.zeros(self.images, 0, dtype=torch.bool)
        return torch.cat([self.executed(site) > 0.5 for site in self], dim=1)

    def distinct(self, sites: Iterable[str] | None = None) -> int:
        """The number of distinct routes, over the given sites or all; 1 for a trace without sites."""
        routes = torch.cat([self.executed(site) > 0.5 for site in sites], dim=1) if sites else self.routes()
        return len({route.tobytes() for route in np.packbits(routes.cpu().numpy(), axis=1)})

    def select(self, index: Tensor) -> Trace:
        """The trace of the images at `index`, in that order; a permutation of all images exchanges their routes."""
        chosen = {site: d.map(lambda t: t[index.to(t.device)]) for site, d in self.items()}
        return Trace(chosen, self.parents, len(index))

    @staticmethod
    def join(traces: Sequence[Trace]) -> Trace:
        """Concatenate the traces of successive batches."""
        first = traces[0]
        joined = {site: combined([trace[site] for trace in traces], torch.cat) for site in first}
        return Trace(joined, first.parents, sum(t.images for t in traces))

    def lean(self) -> Trace:
        """A trace that takes less memory: `used` as bool, weights that differ from `used`, and no probabilities."""
        lean: dict[str, Decision] = {}
        for site, d in self.items():
            used = d.used.detach() > 0.5
            lean[site] = Decision(used, used if d.weight is d.used else d.weight.detach(), used)
        return Trace(lean, self.parents, self.images)

    def to(self, device: torch.device | str) -> Trace:
        """The same decisions on another device, without their autograd graph."""
        moved = {site: d.map(lambda t: t.detach().to(device)) for site, d in self.items()}
        return Trace(moved, self.parents, self.images)


def combined(parts: Sequence[Decision], combine: Callable[[list[Tensor]], Tensor]) -> Decision:
    """Apply `combine` to the tensors of several decisions; what is the same tensor in all of them stays one tensor."""
    used = combine([d.used for d in parts])
    weight = used if all(d.weight is d.used for d in parts) else combine([d.weight for d in parts])
    if all(d.probability is d.used for d in parts):
        return Decision(used, weight, used)
    return Decision(used, weight, combine([d.probability for d in parts]))
