"""The tape of a pass: its settings, and what ops and gates decide, remember and hand over during the pass."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from dyncomp.core.counter import Meter
from dyncomp.core.trace import Decision, combined
from dyncomp.errors import CannotExport


class Remembered(dict[str, Tensor]):
    """Tensors by key. `lost` are the keys whose last value stayed inside a conditional branch of a graph."""

    lost: frozenset[str] = frozenset()

    @staticmethod
    def of(values: Mapping[str, Tensor], lost: frozenset[str]) -> Remembered:
        """From values and the set of lost keys."""
        made = Remembered(values)
        made.lost = lost
        return made

    def recalled(self, key: str) -> Tensor | None:
        """The value under a key; None before the first one. Raises CannotExport for a lost key."""
        if key in self.lost:
            raise CannotExport(
                f"a gate reads {key!r}, which was last remembered inside a branch that may not run; export it --dense"
            )
        return self.get(key)

    def changed(self, since: Mapping[str, Tensor]) -> frozenset[str]:
        """The keys whose tensor is another one than in `since`."""
        return frozenset(key for key, value in self.items() if since.get(key) is not value)


class Tape:
    """The settings of one pass of a network, and what its ops decide, say, remember and hand over.

    Every pass creates a tape when it begins and drops the tape when it ends; ops find it through `Tapes`. All state is
    in plain attributes: a pass without a record has no overhead, and `torch.compile` can trace the tape. `logits_only`:
    a pass in the sparse form without record and meter; `silent`: such a pass without forced decisions.
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
        """Leave `what` for a module of the site that runs later in this pass; it is held until `taken`."""
        self._handed[site] = what

    def handed(self, site: str) -> Any:
        """The object that `hand` left for a site; None if there is none."""
        return self._handed.get(site)

    def taken(self, site: str) -> Any:
        """Remove and return the object that `hand` left for a site; None if there is none."""
        return self._handed.pop(site, None)

    def say(self, key: str, value: Tensor) -> None:
        """Add `value` (B, ...) to the output of the pass, for a loss or a calibration; ignored unless `listens`."""
        if self.listens:
            self.said[key] = value

    @property
    def listens(self) -> bool:
        """Whether `say` has an effect: in recording passes of the dense form. If not, values need not be computed."""
        return self.recording and not self.sparse

    def given(self, site: str, like: Tensor) -> Decision:
        """The decision that is forced at the site, for the current images, in the dtype of `like`."""

        def here(value: Tensor) -> Tensor:
            value = value if self.rows is None else value.to(self.rows.device)[self.rows]
            return value.to(like)

        return self.forced[site].map(here)

    def settle(self, site: str, decision: Decision) -> Decision:
        """The decision in effect at the site: the forced one, else the gate's own. A recording pass notes it."""
        if site in self.forced:
            decision = self.given(site, decision.weight)
        if self.recording:
            noted, here = self.decisions.get(site), decision.map(self._spread)
            # a site that runs on sub-batches decides once for each; rows outside the sub-batch are zero
            self.decisions[site] = here if noted is None else combined([noted, here], lambda pair: pair[0] + pair[1])
        return decision

    def _spread(self, value: Tensor) -> Tensor:
        if self.rows is None:
            return value
        whole = value.new_zeros((self.images, *value.shape[1:]))  # (B, ...)
        return whole.index_copy(0, self.rows, value)

    @contextmanager
    def restricted_to(self, rows: Tensor) -> Iterator[None]:
        """Within the context, ops see only these rows of the current batch."""
        outer = self.rows
        self.rows = rows if outer is None else outer[rows]
        try:
            yield
        finally:
            self.rows = outer

    @contextmanager
    def within(self, used: Tensor) -> Iterator[None]:
        """Mark a unit in the dense form: it runs for all images, but those with `used` (B,) of 0 do not use it."""
        self._inside.append(used)
        try:
            yield
        finally:
            self._inside.pop()

    def recall(self, key: str, like: Tensor) -> Tensor:
        """The value under `key` for the current images; zeros shaped as `like` before the first `remember`."""
        kept = self.memory.recalled(key)
        if kept is None:
            return torch.zeros_like(like)
        return kept if self.rows is None else kept[self.rows]

    def remember(self, key: str, value: Tensor) -> None:
        """Hold `value` (a row for each current image) under `key` until the pass ends.

        Within a unit that an image does not use, the old value of the image stays: the sparse form skips the image.
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
    """The current tape of a network in each thread.

    Outside a pass, as when a gate or an op is called alone, the current tape is an idle one: dense, nothing recorded or
    forced. A copy of the network has its own `Tapes`.
    """

    def __init__(self) -> None:
        self.current = Tape()

    def __reduce__(self) -> tuple[type[Tapes], tuple[()]]:
        return Tapes, ()


class Taped(nn.Module):
    """A module that reads and writes the tape of the pass it runs in, under the name of its site."""

    begins_afresh = False
    """Whether its submodules keep their random weights when the network adopts trained ones."""

    def __init__(self) -> None:
        super().__init__()
        self.site = ""
        self._tapes = Tapes()

    def attach(self, site: str, tapes: Tapes) -> None:
        """Set the site's name and the tapes of the network that holds the module."""
        self.site, self._tapes = site, tapes

    @property
    def tape(self) -> Tape:
        """The tape of the current pass in this thread; see `Tapes`. It ends with the pass: do not store it."""
        tape: Tape = self._tapes.current
        return tape
