"""Work of a network that a counter of operators does not see: in other threads, and outside torch."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch._C._profiler import _ExperimentalConfig
from torch.autograd.profiler_util import FunctionEvent
from torch.overrides import TorchFunctionMode
from torch.profiler import ProfilerActivity, profile, record_function

from dyncomp.core.operators import kind_of

_HERE = "dyncomp: this thread"
_HANDING_OUT = (Tensor.numpy, Tensor.__array__, Tensor.__dlpack__)


def unseen(run: Callable[[], object]) -> list[str]:
    """One line for each kind of work in `run` whose MACs a counter misses; [] where it sees all of it.

    A counter sees the operators of the thread that it counts in. Operators that cost something are found in all threads
    of the process; that a tensor is handed to another library is told, since nobody knows what is computed with it.
    """
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # its library talks on standard error
    config = _ExperimentalConfig(profile_all_threads=True)
    handed = _HandedOut()
    profiler = profile(activities=[ProfilerActivity.CPU], experimental_config=config)
    with torch.inference_mode(), profiler, handed, record_function(_HERE):
        run()
    lines = []
    events = profiler.events() or ()  # type: ignore[no-untyped-call]
    if elsewhere := _elsewhere(events):
        names = ", ".join(f"{name} ({calls} calls)" for name, calls in sorted(elsewhere.items()))
        lines.append(f"{names} in other threads: no counter is there, so their MACs are missing")
    if handed.times:
        lines.append(f"{handed.times} tensors handed to numpy or by DLPack: what is computed there is not known")
    return lines


class _HandedOut(TorchFunctionMode):
    """Counts how often a tensor's memory is given to another library."""

    def __init__(self) -> None:
        super().__init__()
        self.times = 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.times += func in _HANDING_OUT
        return func(*args, **(kwargs or {}))


def _elsewhere(events: Iterable[FunctionEvent]) -> Counter[str]:
    """The calls of operators outside the marked thread that are priced, or whose cost is unknown."""
    events = list(events)
    here = {event.thread for event in events if event.name == _HERE}
    found: Counter[str] = Counter()
    for event in events:
        name = event.name.replace("::", ".")
        if name == event.name or event.thread in here:
            continue
        kind = kind_of(name)
        if (kind is None and _is_free(event.cpu_children)) or (kind == "priced" and not _has_priced_parent(event)):
            found[name] += 1
    return found


def _is_free(events: Iterable[FunctionEvent]) -> bool:
    """Whether all that these call is free: then an operator without a formula that called them is no composite one."""
    return all(kind_of(event.name.replace("::", ".")) == "free" and _is_free(event.cpu_children) for event in events)


def _has_priced_parent(event: FunctionEvent) -> bool:
    parent = event.cpu_parent
    while parent is not None:
        if kind_of(parent.name.replace("::", ".")) == "priced":
            return True
        parent = parent.cpu_parent
    return False
