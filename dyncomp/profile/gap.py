"""Where a network's time goes, as parts that add up: why the clock gives less than the multiply-adds promise.

Over a batch, all in milliseconds:

    time of the method = arithmetic + pace + gates + moving + launches + smaller batches

* **gates** (measured): what runs inside gates, routers, policies, heads of exits and the mixing of kernels, from the
  first of their operators to the last, the interpreter's share included.
* **moving** (measured): finding out which images use a unit, taking images, pixels or filters out, putting them back.
* **arithmetic** (computed): what the multiply-adds outside gates would take at the plain backbone's pace on the same
  batch: `static_ms * (MACs outside gates) / (MACs of static)`. What the claimed speed-up promises.
* **pace** (measured): how much longer the parts that run take when every unit is on and nothing is packed, each part
  scaled to the multiply-adds that it really executes. Positive where the work that is saved is the fast one, or the
  method computes the same in a slower form (kernels of its own for each image, single pixels). It may be negative.
* **launches** (estimated from below): operator calls beyond those scaled in the same way (a block that runs for few
  images calls as many operators as for all), times the cost of a call that does nothing but return, a ReLU on one
  number. A convolution's call costs more; the excess is in the last part.
* **smaller batches** (what is left): blocks and branches that run on a part of the batch are less efficient than on
  all of it. Negative where they run faster, because a small batch fits into the cache, for example.

Times by part come from a stopwatch that the network's own ops start and stop. Its own cost is taken out in proportion:
the shares of a pass with it are applied to the time of the same batch without it, and `stopwatch_slowdown` says how far
the two were apart. Under it blocks run one by one that run in one go without it: then it slows much down, and launches
are fewer than estimated. Few rounds at a time: read the parts as a sketch, and the realised speed-up from the timing.
Where they are too few, or far apart, `verdict` says so.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, median
from typing import Any

import torch
from torch import Tensor

from dyncomp.core import Net
from dyncomp.core.counter import MOVING, MacCounter, Meter, Scope
from dyncomp.core.decisions import all_on
from dyncomp.core.trace import Decision
from dyncomp.profile.passes import doubts, take_turns
from dyncomp.profile.stopwatch import Stopwatch, call_ms
from dyncomp.samples import in_words
from dyncomp.store.schema import GapRecord, PartsRecord

PLAIN = ("static", "own")
"""passes without the stopwatch"""

Forced = Mapping[str, Decision] | None
ByScope = Mapping[Scope, float]


@dataclass(frozen=True)
class Work:
    """What passes execute, on average over batches: MACs and operator calls, by scope."""

    macs: ByScope
    calls: ByScope

    @property
    def macs_total(self) -> float:
        """Of everything."""
        return sum(self.macs.values())

    @property
    def macs_rest(self) -> float:
        """Outside gates and moving."""
        return sum(rest(self.macs).values())

    def scaled(self, of_full: ByScope, full: Work) -> float:
        """What `of_full`, known of each scope with everything on, comes to when scaled by the MACs that really ran."""
        return sum(
            value * (self.macs.get(scope, 0.0) / full.macs[scope] if full.macs.get(scope) else 1.0)
            for scope, value in rest(of_full).items()
        )


def is_gate(scope: Scope) -> bool:
    """Whether a scope is a site's overhead."""
    return scope is not None and scope[1] is None


def is_moving(scope: Scope) -> bool:
    """Whether a scope only moves things."""
    return scope is not None and scope[1] == MOVING


def rest(values: ByScope) -> ByScope:
    """Without gates and moving."""
    return {scope: value for scope, value in values.items() if not is_gate(scope) and not is_moving(scope)}


@dataclass(frozen=True)
class Gap:
    """All that the parts are made of; see the head of this file. Times and work are of a whole batch."""

    batch_size: int
    cycles: int
    static_ms: float
    method_ms: float
    slowdown: float
    call_ms: float
    static: Work
    own: Work
    full: Work
    own_ms: ByScope
    """of the method, by scope; adds up to `method_ms`"""
    full_ms: ByScope
    """the same with every unit on"""
    verdict: str
    """whether the times can be relied on"""

    def parts_ms(self) -> PartsRecord:
        """The parts, which add up to `method_ms`."""
        arithmetic = self.static_ms * self.own.macs_rest / self.static.macs_total
        expected = self.own.scaled(self.full_ms, self.full)
        calls = sum(rest(self.own.calls).values()) - self.own.scaled(self.full.calls, self.full)
        launches = self.call_ms * calls
        ran = sum(rest(self.own_ms).values())
        gates = sum(ms for scope, ms in self.own_ms.items() if is_gate(scope))
        moving = sum(ms for scope, ms in self.own_ms.items() if is_moving(scope))
        return {
            "arithmetic": arithmetic,
            "pace": expected - arithmetic,
            "gates": gates,
            "moving": moving,
            "launches": launches,
            "smaller_batches": ran - expected - launches,
        }

    def as_record(self) -> GapRecord:
        """Ready for JSON."""
        return {
            "batch_size": self.batch_size,
            "cycles": self.cycles,
            "verdict": self.verdict,
            "static_ms": self.static_ms,
            "method_ms": self.method_ms,
            "parts_ms": self.parts_ms(),
            "stopwatch_slowdown": self.slowdown,
            "call_us": 1000 * self.call_ms,
            "calls": sum(self.own.calls.values()),
            "calls_static": sum(self.static.calls.values()),
            "macs": self.own.macs_total / self.batch_size,
            "flops": 2 * self.own.macs_total / self.batch_size,
        }


def attribute(net: Net, static: Net, batches: Sequence[Tensor], seconds: float) -> Gap:
    """Decompose the time of the sparse form over batches (B, C, H, W), all of one size, against the plain backbone.

    Each batch goes through both networks, plainly, and through the method under the stopwatch, by its own decisions and
    with everything on. The four take turns; in cycles over the batches, until `seconds` are over, but five in any case,
    unless that takes five times as long.
    """
    on = {site: decision.map(lambda t: t.to(batches[0])) for site, decision in all_on(net, len(batches[0])).items()}
    for batch in batches:  # every route and size of sub-batch is warm
        for each, forced in ((static, None), (net, None), (net, on)):
            _pass(each, batch, forced)
    cycles = _cycles(net, static, batches, on, seconds)
    static_ms, method_ms = (
        fmean(median(each[name] for each in passes) for passes in zip(*cycles, strict=True)) for name in PLAIN
    )
    own, full = _by_scope(cycles, "parts"), _by_scope(cycles, "full")
    slowdown = sum(own.values()) / method_ms
    return Gap(
        batch_size=len(batches[0]),
        cycles=len(cycles),
        static_ms=static_ms,
        method_ms=method_ms,
        slowdown=slowdown,
        call_ms=call_ms(batches[0].device),
        static=work(static, batches[:1]),
        own=work(net, batches),
        full=work(net, batches[:1], on),
        own_ms={scope: ms / slowdown for scope, ms in own.items()},
        full_ms={scope: ms / slowdown for scope, ms in full.items()},
        verdict=in_words(doubts(cycles, {"static": "static is ", "own": ""})),
    )


def _cycles(net: Net, static: Net, batches: Sequence[Tensor], on: Forced, seconds: float) -> list[list[dict[str, Any]]]:
    ways: dict[str, Callable[[Tensor], Any]] = {
        "static": lambda batch: _timed(static, batch),
        "own": lambda batch: _timed(net, batch),
        "parts": lambda batch: watched_ms(net, batch),
        "full": lambda batch: watched_ms(net, batch, on),
    }
    return take_turns(ways, batches, seconds)


def _by_scope(cycles: Sequence[Sequence[Mapping[str, Any]]], name: str) -> dict[Scope, float]:
    """The mean over batches of each one's middle pass, which still adds up."""
    found: dict[Scope, float] = defaultdict(float)
    for passes in zip(*cycles, strict=True):
        ordered = sorted((each[name] for each in passes), key=lambda parts: sum(parts.values()))
        for scope, ms in ordered[(len(ordered) - 1) // 2].items():
            found[scope] += ms / len(cycles[0])
    return dict(found)


def _pass(net: Net, batch: Tensor, forced: Forced = None, meter: Meter | None = None) -> None:
    with torch.inference_mode():
        net(batch, sparse=True, decisions=forced, record=False, meter=meter)


def _timed(net: Net, batch: Tensor) -> float:
    watch = Stopwatch(batch.device)
    with watch.measuring():
        _pass(net, batch)
    return watch.total_ms


def watched_ms(net: Net, batch: Tensor, forced: Forced = None) -> ByScope:
    """Milliseconds of a pass by scope."""
    watch = Stopwatch(batch.device)
    with watch.measuring():
        _pass(net, batch, forced, watch)
    return watch.parts_ms()


def work(net: Net, batches: Sequence[Tensor], forced: Forced = None) -> Work:
    """What the sparse form executes, counted, on average over batches."""
    with MacCounter() as counter:
        for batch in batches:
            _pass(net, batch, forced, counter)
    count = len(batches)
    macs = {scope: ran / count for scope, ran in counter.by_scope.items()}
    return Work(macs, {scope: calls / count for scope, calls in counter.calls.items()})
