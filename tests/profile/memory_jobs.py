"""Jobs whose memory is known."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

from dyncomp.profile.peak import MIB, Work

KEPT: list[torch.Tensor] = []


def nothing() -> None:
    return None


def allocates(mib: int, warm_mib: int = 0, loaded_mib: int = 0, kept_mib: int = 0) -> Work:
    """Writes so much memory and frees it; `kept_mib` of the warm-up's stay."""
    KEPT.append(torch.ones(loaded_mib * MIB // 4))

    def fill(size: int) -> Callable[[], None]:
        def run() -> None:
            torch.ones(size * MIB // 4)

        return run

    def warm_up() -> None:
        fill(warm_mib)()
        KEPT.append(torch.ones(kept_mib * MIB // 4))

    return Work(warm_up, fill(mib))


def convolves(threads: int) -> Work:
    """Fails unless operators run, in so many threads, in a forked process."""

    def run() -> None:
        assert torch.get_num_threads() == threads
        conv = nn.Conv2d(16, 32, 3)
        loss = conv(torch.rand(16, 16, 64, 64)).square().mean() + (torch.rand(300, 300) @ torch.rand(300, 300)).mean()
        loss.backward()
        print("a job may print")

    return Work(nothing, run)


def fails() -> Work:
    raise ValueError("no\nnetwork")


def is_killed() -> Work:
    return Work(nothing, lambda: os.kill(os.getpid(), signal.SIGKILL))


def leaves() -> Work:
    return Work(nothing, lambda: os._exit(3))


def hangs(path: str) -> Work:
    """Writes the number of its process, then waits."""

    def run() -> None:
        Path(path).write_text(str(os.getpid()))
        time.sleep(60)

    return Work(nothing, run)
