"""What was decided for each image: decisions, and the trace that holds those of a pass."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

Parent = tuple[str, int] | None
"""The unit (site, index) inside which a site lies, or None where it is always reached."""


@dataclass(frozen=True)
class Decision:
    """One site's decision for a batch: which units are used and with what weight.

    All three are (B, U). `used` is 0 or 1 and prices the image; it may carry a straight-through gradient.
    `weight` shapes the output. `probability` is the chance with which a sampling gate would use the unit.
    """

    used: Tensor
    weight: Tensor
    probability: Tensor

    def map(self, change: Callable[[Tensor], Tensor]) -> Decision:
        """The decision with `change` applied to each of its three tensors, once where they are the same tensor."""
        used = change(self.used)
        weight = used if self.weight is self.used else change(self.weight)
        known = {id(self.used): used, id(self.weight): weight}.get(id(self.probability))
        return Decision(used, weight, change(self.probability) if known is None else known)


class Trace(Mapping[str, Decision]):
    """A pass's decisions: site -> Decision over the whole batch; together they are the images' routes.

    In the sparse form a nested site is not reached by every image; the rows of the others are zero there.
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
        """How far each image reaches the site: its parent's reach times its parent's decision, (B,) or 1."""
        parent = self.parents.get(site)
        if parent is None:
            return 1.0
        return self.reach(parent[0]) * self[parent[0]].used[:, parent[1]]  # (B,)

    def executed(self, site: str) -> Tensor:
        """Units of the site that run for each image: used, and reached, (B, U)."""
        reach = self.reach(site)
        used = self[site].used
        return used * reach[:, None] if isinstance(reach, Tensor) else used  # (B, U)

    def routes(self) -> Tensor:
        """Each image's route: all units of all sites in order, run or not, (B, sum of U) bool."""
        if not self:
            return torch.zeros(self.images, 0, dtype=torch.bool)
        return torch.cat([self.executed(site) > 0.5 for site in self], dim=1)

    def distinct(self, sites: Iterable[str] | None = None) -> int:
        """How many different routes the images take, over some sites or all; 1 where nothing is decided."""
        routes = torch.cat([self.executed(site) > 0.5 for site in sites], dim=1) if sites else self.routes()
        return len({route.tobytes() for route in np.packbits(routes.cpu().numpy(), axis=1)})

    def select(self, index: Tensor) -> Trace:
        """The trace of the images at `index`, in that order (an order of all images exchanges their routes)."""
        chosen = {site: d.map(lambda t: t[index.to(t.device)]) for site, d in self.items()}
        return Trace(chosen, self.parents, len(index))

    @staticmethod
    def join(traces: Sequence[Trace]) -> Trace:
        """The traces of successive batches as one."""
        first = traces[0]
        joined = {site: _joined([trace[site] for trace in traces]) for site in first}
        return Trace(joined, first.parents, sum(t.images for t in traces))

    def lean(self) -> Trace:
        """The same routes, and weights where they are more than routes: `used` as bool, and chances forgotten."""
        return Trace({site: _lean(d) for site, d in self.items()}, self.parents, self.images)

    def to(self, device: torch.device | str) -> Trace:
        """The same decisions on another device, without their graph."""
        moved = {site: d.map(lambda t: t.detach().to(device)) for site, d in self.items()}
        return Trace(moved, self.parents, self.images)


def _lean(decision: Decision) -> Decision:
    used = decision.used.detach() > 0.5
    return Decision(used, used if decision.weight is decision.used else decision.weight.detach(), used)


def _joined(parts: Sequence[Decision]) -> Decision:
    """Decisions of successive batches as one; what is the same tensor in all of them stays one tensor."""
    used = torch.cat([d.used for d in parts])
    if all(d.weight is d.used and d.probability is d.used for d in parts):
        return Decision(used, used, used)
    return Decision(used, torch.cat([d.weight for d in parts]), torch.cat([d.probability for d in parts]))
