"""What a process frees it keeps: the next pass finds its pages there."""

from __future__ import annotations

import resource
from multiprocessing.connection import Connection

import torch

from dyncomp.profile.allocator import KEEPS, keep_freed_memory
from dyncomp.profile.child import Child


def count_faults(pipe: Connection, keeps: bool) -> None:
    """Send how many pages are faulted in by passes after the first ones; None where freed memory cannot be kept."""
    if keeps and keep_freed_memory() != KEEPS:
        pipe.send(None)
        return

    def passes() -> None:
        for _ in range(20):
            torch.ones(2**23).add(1)  # 32 MiB, above whatever glibc would keep

    passes()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    passes()
    pipe.send(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)


def faults(keeps: bool) -> int | None:
    child = Child(count_faults, keeps)
    found: int | None = child.receive(120)
    child.end()
    return found


def test_pages_are_faulted_in_once() -> None:
    kept, usual = faults(True), faults(False)
    assert usual
    if kept is not None:  # on glibc
        assert kept < 0.1 * usual
