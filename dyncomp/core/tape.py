"""The tape of a pass: what it is asked, and what the parts of its network decide, remember and hand one another."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from dyncomp.core.counter import Meter
from dyncomp.core.trace import Decision
from dyncomp.errors import CannotExport


class Remembered(dict[str, Tensor]):
    """Tensors by key; those whose last value stayed inside a conditional branch of a graph are `lost`."""

    lost: frozenset[str] = frozenset()

    @staticmethod
    def of(values: Mapping[str, Tensor], lost: frozenset[str]) -> Remembered:
        """These values, and those keys lost."""
        made = Remembered(values)
        made.lost = lost
        return made

    def recalled(self, key: str) -> Tensor | None:
        """The value, None where there is none yet. Raises CannotExport for one that is lost."""
        if key in self.lost:
            raise CannotExport(
                f"a gate reads {key!r}, which was last remembered inside a branch that may not run; export it --dense"
            )
        return self.get(key)

    def changed(self, since: Mapping[str, Tensor]) -> frozenset[str]:
        """The keys that hold another tensor than before."""
        return frozenset(key for key, value in self.items() if since.get(key) is not value)


class Tape:
    """What one pass of a network is asked to do, and what its ops decide, say, remember and hand one another.

    A pass has its own, made when it begins and let go when it ends; ops find it by `Tapes`. Plain attributes, so that a
    pass which records nothing pays nothing and `torch.compile` sees no trick. `logits_only`: the sparse form, no record
    and no meter; `silent`: no forced decision either.
    """

    def __init__(
        self,
        images: int = 0,
        sparse: bool = False,
        recording: bool = False,
        forced: Mapping[str, Decision] | None = None,
        sampling: bool = False,
        meter: Meter | None = None,
    ) -> None:
        self.images = images
        self.sparse = sparse
        self.recording = recording
        self.forced = forced or {}
        self.sampling = sampling
        self.meter = meter
        self.logits_only = sparse and not recording and meter is None
        self.silent = self.logits_only and not forced
        self.rows: Tensor | None = None
        self.decisions: dict[str, Decision] = {}
        self.said: dict[str, Tensor] = {}
        self._inside: list[Tensor] = []
        self.memory = Remembered()
        self._handed: dict[str, Any] = {}

    def hand(self, site: str, what: Any) -> None:
        """Leave `what` for the part of that site, which runs later in this pass; it stays until `taken`."""
        self._handed[site] = what

    def handed(self, site: str) -> Any:
        """What was left for a site; None for nothing."""
        return self._handed.get(site)

    def taken(self, site: str) -> Any:
        """What was left for a site, which is not kept any longer; None for nothing."""
        return self._handed.pop(site, None)

    def say(self, key: str, value: Tensor) -> None:
        """Add `value` (B, ...) to the pass's output, for a loss or a calibration; in the dense form only."""
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
        """Inside, all images go through (dense form), but what an image with `used` (B,) of 0 gives is not used."""
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

        An image inside a unit that it does not use keeps its old value: the sparse form would not run that image.
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


class Tapes(threading.local):
    """Where the parts of one network find the tape of the pass that is under way in their thread.

    Outside a pass, when a gate or an op is called by itself, that is an idle tape: dense, nothing recorded or forced. A
    copy of the network has tapes of its own.
    """

    def __init__(self) -> None:
        self.current = Tape()

    def __reduce__(self) -> tuple[type[Tapes], tuple[()]]:
        return Tapes, ()


class Taped(nn.Module):
    """A module that takes part in passes: it has a name (its site), and finds the tape of the pass it runs in."""

    begins_afresh = False
    """Whether the modules in it keep their random weights where the network adopts trained ones."""

    def __init__(self) -> None:
        super().__init__()
        self.site = ""
        self._tapes = Tapes()

    def attach(self, site: str, tapes: Tapes) -> None:
        """Take a place in a network."""
        self.site, self._tapes = site, tapes

    @property
    def tape(self) -> Tape:
        """That of the network's pass in this thread; see `Tapes`. It ends with the pass: do not keep it."""
        tape: Tape = self._tapes.current
        return tape


def _sum(a: Decision, b: Decision) -> Decision:
    return Decision(a.used + b.used, a.weight + b.weight, a.probability + b.probability)
