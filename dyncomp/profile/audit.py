"""Which operators take the time: those that are priced, those that are free by convention, those that nobody priced.

A network's MACs leave out what the convention calls free (normalisation, activations, copies, gathering, scattering).
It costs time all the same, and that is where the claimed and the realised speed-up part. The shares are of the time
inside operators, each operator's own (what it calls excluded), as `torch.profiler` measures it on real images in the
sparse form: on a GPU the time of its kernels, elsewhere the processor's. The profiler adds about a microsecond to every
call, so in a network of many small operators the shares of the smallest are somewhat too large.
"""

from __future__ import annotations

import os
import time
from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final

import torch
from torch import Tensor
from torch.autograd.profiler_util import FunctionEvent
from torch.profiler import ProfilerActivity, profile

from dyncomp.core import Net
from dyncomp.core.operators import kind_of
from dyncomp.store.schema import OperatorRecord, OperatorsRecord

PRICED: Final = "priced"
FREE: Final = "free"
UNKNOWN: Final = "unknown"
KINDS = (PRICED, FREE, UNKNOWN)
TOP = 6
"""operators of each kind that are told by name"""


@dataclass
class OperatorTime:
    """One operator in all calls: its name, how the convention sees it, how often it ran, its time with what it calls.

    What it calls is counted as its own, so a convolution is one operator and not the library's three.
    """

    name: str
    kind: str
    calls: int = 0
    ms: float = 0.0


@dataclass(frozen=True)
class Audit:
    """Time by operator over some batches; `wall_ms` is that of the passes themselves, under the profiler."""

    operators: tuple[OperatorTime, ...]
    wall_ms: float
    batch_size: int
    batches: int

    @property
    def total_ms(self) -> float:
        """Inside all operators."""
        return sum(operator.ms for operator in self.operators)

    def share(self, kind: str) -> float:
        """Of the time inside operators, from 0 to 1, that operators of the kind took."""
        of_kind = sum(operator.ms for operator in self.operators if operator.kind == kind)
        return of_kind / self.total_ms if self.total_ms else 0.0

    def as_record(self) -> OperatorsRecord:
        """Ready for JSON; `top` has the operators of each kind that took most, all of the unknown ones."""
        return {
            "batch_size": self.batch_size,
            "batches": self.batches,
            "wall_ms": self.wall_ms,
            "operators_ms": self.total_ms,
            "shares": {"priced": self.share(PRICED), "free": self.share(FREE), "unknown": self.share(UNKNOWN)},
            "top": {"priced": self._top(PRICED), "free": self._top(FREE), "unknown": self._top(UNKNOWN)},
        }

    def _top(self, kind: str) -> list[OperatorRecord]:
        chosen = sorted((o for o in self.operators if o.kind == kind), key=lambda o: -o.ms)
        shown = chosen if kind == UNKNOWN else chosen[:TOP]
        return [{"operator": o.name, "calls": o.calls, "share": o.ms / (self.total_ms or 1.0)} for o in shown]


def audit_operators(net: Net, batches: Sequence[Tensor], uncounted: Collection[str]) -> Audit:
    """Time every operator of the sparse form on batches (B, C, H, W), after one pass over each to warm up.

    `uncounted` names the operators, such as `aten._fft_c2c`, that a counter found to have no known cost.
    """

    def run() -> float:
        begin = time.perf_counter()
        with torch.inference_mode():
            for batch in batches:
                net(batch, sparse=True, record=False)
            if batches[0].is_cuda:
                torch.cuda.synchronize(batches[0].device)
        return 1000 * (time.perf_counter() - begin)

    run()
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # its library talks on standard error
    cuda = batches[0].is_cuda
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if cuda else [])]
    with profile(activities=activities) as profiler:
        wall_ms = run()
    operators = by_operator(profiler.events() or (), uncounted, cuda)
    return Audit(tuple(operators), wall_ms, len(batches[0]), len(batches))


def by_operator(events: Iterable[FunctionEvent], uncounted: Collection[str], cuda: bool) -> list[OperatorTime]:
    """Sum the events' own times by the operator that the convention judges: the outermost that it has a word for."""
    found: dict[tuple[str, str], OperatorTime] = {}
    judged = _Judged(frozenset(uncounted))
    for event in events:
        if "::" not in event.name or event.device_type.name != "CPU":
            continue  # annotations, and a GPU's kernels: these are told by the operators that launched them
        name, kind = judged.of(event)
        operator = found.setdefault((name, kind), OperatorTime(name, kind))
        operator.ms += (event.self_device_time_total if cuda else event.self_cpu_time_total) / 1000
        operator.calls += judged.begins(event)
    return list(found.values())


@dataclass
class _Judged:
    """Judges events by name and place; remembers what it said."""

    uncounted: frozenset[str]
    kinds: dict[str, str | None] = field(default_factory=dict)
    verdicts: dict[int, tuple[str, str]] = field(default_factory=dict)
    beginning: dict[int, bool] = field(default_factory=lambda: defaultdict(bool))

    def begins(self, event: FunctionEvent) -> bool:
        """Whether the event itself is the operator that is judged, and not a part or a wrapper of one."""
        return self.beginning[event.id]

    def of(self, event: FunctionEvent) -> tuple[str, str]:
        """The name and kind of the operator that the event belongs to."""
        if event.id not in self.verdicts:
            self.verdicts[event.id] = self._verdict(event)
        return self.verdicts[event.id]

    def _verdict(self, event: FunctionEvent) -> tuple[str, str]:
        parent = event.cpu_parent
        while parent is not None:  # the outermost operator with a word speaks for all that it calls
            if self._kind(parent.name):
                return self.of(parent)
            parent = parent.cpu_parent
        name = _dotted(event.name)
        if kind := self._kind(event.name):
            self.beginning[event.id] = True
            return name, kind
        parts = [child for child in event.cpu_children if "::" in child.name]
        if parts:  # a wrapper's own time is that of the heaviest part
            return self._verdict(max(parts, key=lambda child: child.cpu_time_total))
        self.beginning[event.id] = True
        return name, FREE if _is_composite(event.name) else UNKNOWN

    def _kind(self, name: str) -> str | None:
        if name not in self.kinds:
            dotted = _dotted(name)
            self.kinds[name] = UNKNOWN if dotted in self.uncounted else kind_of(dotted)
        return self.kinds[name]


def _dotted(name: str) -> str:
    return name.replace("::", ".", 1)


def _is_composite(name: str) -> bool:
    """Whether an operator only calls others; one that called none found nothing to do."""
    try:
        return bool(torch._C._dispatch_has_kernel_for_dispatch_key(name, "CompositeImplicitAutograd"))
    except RuntimeError:  # nobody registered such an operator
        return False
