"""What a process frees it keeps: the next pass finds its pages there."""

from __future__ import annotations

import subprocess
import sys

FAULTS = """
import resource, sys
import torch
from dyncomp.profile.allocator import KEEPS, keep_freed_memory

def passes():
    for _ in range(20):
        torch.ones(2**23).add(1)  # 32 MiB, above whatever glibc would keep

if sys.argv[1] == "keeps" and keep_freed_memory() != KEEPS:
    print(-1)
else:
    passes()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    passes()
    print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(how: str) -> int:
    done = subprocess.run([sys.executable, "-c", FAULTS, how], capture_output=True, text=True, check=True)
    return int(done.stdout)


def test_pages_are_faulted_in_once() -> None:
    kept = faults("keeps")
    if kept >= 0:  # on glibc
        assert kept < 0.1 * faults("usual")
