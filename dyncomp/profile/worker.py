"""The process that one network lives in while it is timed: it waits in a pipe, runs its turn, and waits again."""

from __future__ import annotations

import gc
import os
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from itertools import count
from multiprocessing.connection import Connection
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dyncomp.errors import in_one_line
from dyncomp.profile.allocator import USUAL, keep_freed_memory
from dyncomp.profile.child import live_with_parent
from dyncomp.profile.clock import Run, clock_of
from dyncomp.profile.rest import wait_for_own_threads

Make = Callable[[], Run]
"""what builds a form of a network; it travels to another process, so: a `functools.partial` of a module's function"""


@dataclass(frozen=True)
class Setting:
    """What all processes of a comparison have in common.

    `warm_up_ms`: of each turn, before passes are timed. `dtype` and `layout` are those of the images.
    """

    device: str
    threads: int
    processors: tuple[int, ...]
    warm_up_ms: float = 8.0
    dtype: torch.dtype = torch.float32
    layout: torch.memory_format = torch.channels_last


class Bench:
    """A network and its images, ready to be timed; each method answers one request of the parent."""

    def __init__(self, make: Make, setting: Setting, allocator: str = USUAL) -> None:
        self.make, self.setting, self.allocator = make, setting, allocator
        self._run_on(setting.processors)
        self.device = torch.device(setting.device)
        self.clock = clock_of(self.device)
        self.run: Run | None = None
        self.batches: tuple[Tensor, ...] = ()

    def build(self) -> dict[str, Any]:
        """Build the network; says how this process is set.

        On one thread: all networks are built at the same time, and threads that wait for each other would starve.
        """
        torch.set_num_threads(1)
        self.run = self.make()
        torch.set_num_threads(self.setting.threads)
        gc.collect()
        gc.disable()  # for good: this process does nothing else, and a collection would fall into some sample
        return {
            "threads": torch.get_num_threads(),
            "affinity": sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None,
            "gc": gc.isenabled(),
            "allocator": self.allocator,
            "clock": self.clock.name,
            "warm_up_ms": self.setting.warm_up_ms,
            "form": dict(getattr(self.run, "facts", {})),
        }

    def load(self, path: str, batch_size: int) -> int:
        """Map the images, (N, H, W, C) in a file that all processes share, as batches; how many there are."""
        pixels = torch.from_numpy(np.load(path, mmap_mode="c"))
        images = torch.split(pixels.permute(0, 3, 1, 2), batch_size)  # (B, C, H, W), channels last
        dtype, layout = self.setting.dtype, self.setting.layout
        self.batches = tuple(batch.to(self.device, dtype, memory_format=layout) for batch in images)
        return len(self.batches)

    def warm(self, place: int) -> float:
        """Run one batch; its milliseconds."""
        return self._timed([place])[0]

    def rest(self) -> None:
        """Wait until no thread of this process runs, so that it disturbs no other."""
        wait_for_own_threads()

    def turn(self, places: Sequence[int], turn: int) -> list[float]:
        """Run batches one after the other; the milliseconds of each. `turn` counts the turns of each network.

        The calling thread begins on a processor that `turn` names, the same for all networks, and is free to leave it.
        Processors of one machine differ (by 10 to 20 % where a virtual one shares a core with a neighbour), and a
        thread stays for seconds where it is: without this, a network is as fast as the place that its process found.

        The batches before them are run first and not timed, for `warm_up_ms`, one at least: they wake the thread team
        and bring code and weights back into the caches from which another process has driven them.
        """
        processors = self.setting.processors
        self._run_on({processors[turn % len(processors)]})
        self._run_on(processors)
        end = time.perf_counter() + self.setting.warm_up_ms / 1000
        for before in count(1):
            self._timed([(places[0] - before) % len(self.batches)])
            if time.perf_counter() >= end:
                break
        times = self._timed(places)
        self.rest()
        return times

    def _run_on(self, processors: Collection[int]) -> None:
        """Let the calling thread run on these alone; those that it has started stay as they are."""
        if hasattr(os, "sched_setaffinity"):
            os.sched_setaffinity(0, processors)

    def _timed(self, places: Sequence[int]) -> list[float]:
        assert self.run is not None, "build first"
        with torch.inference_mode():
            return [self.clock.milliseconds(self.run, self.batches[place]) for place in places]


def serve(pipe: Connection, make: Make, setting: Setting) -> None:
    """Answer requests `(method of Bench, *arguments)` by `(True, answer)` or `(False, error)` until the pipe ends."""
    live_with_parent()
    bench = Bench(make, setting, keep_freed_memory())
    while True:
        try:
            name, *arguments = pipe.recv()
        except EOFError:
            return
        pipe.send(answer_of(bench, name, arguments))


def answer_of(bench: Bench, name: str, arguments: Sequence[Any]) -> tuple[bool, Any]:
    """`(True, answer)`, or `(False, error)` of a network that fails: whatever it raises is its own fault."""
    try:
        return True, getattr(bench, name)(*arguments)
    except Exception as error:
        said = in_one_line(error)
    gc.collect()  # what a pass that failed has left is given back, so that a smaller batch may find room
    if bench.device.type == "cuda":
        torch.cuda.empty_cache()
    return False, said
