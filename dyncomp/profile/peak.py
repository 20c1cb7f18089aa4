"""How much the memory of a process rises while something runs; called inside that process."""

from __future__ import annotations

import ctypes
import gc
import resource
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from dyncomp.fast import available

MIB = 2**20
_STATUS, _CLEAR_REFS = Path("/proc/self/status"), Path("/proc/self/clear_refs")
_RESET_PEAK = "5"


@dataclass(frozen=True)
class Work:
    """What is to be measured, everything that it needs being loaded: `warm_up()` runs once before `run()`."""

    warm_up: Callable[[], object]
    run: Callable[[], object]
    device: str = "cpu"


def rise_bytes(work: Work) -> int:
    """The peak of memory while `work.run()` runs, beyond what is taken before anything ran.

    On a CPU it is the process's peak resident memory, with what libraries keep from the warm-up, and without what the
    warm-up has given back; on a GPU the allocator's peak. Where the system cannot reset its peak (it can on Linux), a
    higher peak of the warm-up counts too.
    """
    if work.device.startswith("cuda"):
        before = torch.cuda.memory_allocated(work.device)
        work.warm_up()
        torch.cuda.synchronize(work.device)
        gc.collect()
        torch.cuda.reset_peak_memory_stats(work.device)
        work.run()
        torch.cuda.synchronize(work.device)
        return torch.cuda.max_memory_allocated(work.device) - before
    _give_back()
    before = _status("VmRSS") or _peak()
    work.warm_up()
    _give_back()
    if _CLEAR_REFS.exists():
        with suppress(OSError):  # not allowed here: the peak since the process began stays
            _CLEAR_REFS.write_text(_RESET_PEAK)
    work.run()
    return max(0, _peak() - before)


def load_libraries() -> None:
    """Import what is imported when first needed, with the first optimizer and code: 200 MiB that are no network's."""
    torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.0)
    available()


def _give_back() -> None:
    """Return freed memory to the system, so that it is not taken for used."""
    gc.collect()
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc's
        if trim is not None:
            trim(0)


def _peak() -> int:
    unit = 1 if sys.platform == "darwin" else 1024
    return _status("VmHWM") or resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _status(name: str) -> int:
    """A line of the process's own status, in bytes; 0 where there is none."""
    if not _STATUS.exists():
        return 0
    found = (line for line in _STATUS.read_text().splitlines() if line.startswith(f"{name}:"))
    return 1024 * int(next(found, f"{name}: 0 kB").split()[1])
