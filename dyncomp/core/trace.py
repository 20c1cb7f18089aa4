"""What was decided for each image: decisions, the trace that holds them, the tape that carries them through a pass."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from dyncomp.core.counter import Meter
from dyncomp.core.remembered import Remembered

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


def _sum(a: Decision, b: Decision) -> Decision:
    return Decision(a.used + b.used, a.weight + b.weight, a.probability + b.probability)


def _joined(parts: Sequence[Decision]) -> Decision:
    """Decisions of successive batches as one; what is the same tensor in all of them stays one tensor."""
    used = torch.cat([d.used for d in parts])
    if all(d.weight is d.used and d.probability is d.used for d in parts):
        return Decision(used, used, used)
    return Decision(used, torch.cat([d.weight for d in parts]), torch.cat([d.probability for d in parts]))


class Tape:
    """What one pass of a network is asked to do, and what its ops decided; one per network, shared by its ops.

    Plain attributes, so that a pass which records nothing pays nothing and `torch.compile` sees no trick.
    """

    def __init__(self) -> None:
        self.sparse = False
        self.sampling = False
        self.recording = True
        self.silent = False
        self.forced: Mapping[str, Decision] = {}
        self.meter: Meter | None = None
        self.images = 0
        self.rows: Tensor | None = None
        self.decisions: dict[str, Decision] = {}
        self.said: dict[str, Tensor] = {}
        self._inside: list[Tensor] = []
        self.memory = Remembered()

    def begin(self, images: int, sparse: bool, recording: bool, forced: Mapping[str, Decision]) -> None:
        """Start a pass over a batch of that many images."""
        self.images, self.sparse, self.recording = images, sparse, recording
        self.forced = forced
        self.silent = sparse and not recording and not forced and self.meter is None
        self.rows = None
        self.decisions = {}
        self.said = {}
        self._inside = []
        self.memory = Remembered()

    def end(self) -> None:
        """Let go of all tensors, so that a pass's graph is freed with its output and the network can be copied."""
        self.begin(0, self.sparse, self.recording, {})

    def say(self, key: str, value: Tensor) -> None:
        """Hand `value` (B, ...) to whoever reads the pass's output: a loss, a calibration. In the dense form only."""
        if self.listens:
            self.said[key] = value

    @property
    def listens(self) -> bool:
        """Whether what is said in this pass is heard; if not, it need not be made."""
        return self.recording and not self.sparse

    def given(self, site: str, like: Tensor) -> Decision:
        """The decision that is forced at the site, for the current images, in the type of `like`."""
        return self._force(self.forced[site], like)

    def settle(self, site: str, decision: Decision) -> Decision:
        """The decision that holds at the site (a forced one replaces the gate's own), noted when recording."""
        if site in self.forced:
            decision = self.given(site, decision.weight)
        if self.recording:
            noted, here = self.decisions.get(site), decision.map(self._spread)
            # a site inside parts of a batch decides once for each part; the rows of the others are zero
            self.decisions[site] = here if noted is None else _sum(noted, here)
        return decision

    def _force(self, forced: Decision, like: Tensor) -> Decision:
        def here(value: Tensor) -> Tensor:
            value = value if self.rows is None else value[self.rows]
            return value.to(like)

        return forced.map(here)

    def _spread(self, value: Tensor) -> Tensor:
        if self.rows is None:
            return value
        whole = value.new_zeros((self.images, *value.shape[1:]))  # (B, ...)
        return whole.index_copy(0, self.rows, value)

    @contextmanager
    def narrow(self, rows: Tensor) -> Iterator[None]:
        """Inside, ops see only these rows of the current batch."""
        outer = self.rows
        self.rows = rows if outer is None else outer[rows]
        try:
            yield
        finally:
            self.rows = outer

    @contextmanager
    def within(self, used: Tensor) -> Iterator[None]:
        """Inside, all images go through (dense form), but those whose `used` (B,) is 0 are there for nothing."""
        self._inside.append(used)
        try:
            yield
        finally:
            self._inside.pop()

    def recall(self, key: str, like: Tensor) -> Tensor:
        """What a gate remembered under `key` for the current images in this pass; zeros shaped `like` at first."""
        kept = self.memory.recalled(key)
        if kept is None:
            return torch.zeros_like(like)
        return kept if self.rows is None else kept[self.rows]

    def remember(self, key: str, value: Tensor) -> None:
        """Keep `value` (one row per current image) under `key` until the pass ends.

        An image that is there for nothing keeps what it had: in the sparse form it would not be there.
        """
        if self._inside:
            there = (torch.stack(self._inside) > 0.5).all(dim=0)  # (B,)
            value = torch.where(there[:, None], value, self.recall(key, value))
        if self.rows is None:
            self.memory[key] = value
            return
        kept = self.memory.get(key)
        whole = value.new_zeros((self.images, *value.shape[1:])) if kept is None else kept
        self.memory[key] = whole.index_copy(0, self.rows, value)
