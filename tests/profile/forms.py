"""Networks that another process can make, and that note what is asked of them."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

Run = Callable[[Tensor], Any]


def noting(log: str, name: str) -> Run:
    """Writes a line per call: name, process, when it began and ended, and which images it saw."""
    Path(log).touch()

    def run(images: Tensor) -> None:
        begin = time.monotonic_ns()
        numbers = (images[:, 0, 0, 0] * 1000).round().int().tolist()
        (images @ images.transpose(2, 3)).sum()
        line = [
            name,
            os.getpid(),
            begin,
            time.monotonic_ns(),
            ".".join(map(str, numbers)),
            torch.is_inference_mode_enabled(),
        ]
        with open(log, "a", encoding="utf-8") as file:
            file.write(" ".join(map(str, line)) + "\n")

    return run


def raising(at: int) -> Run:
    """Fails from its call `at` on."""
    calls = iter(range(1, 10**9))

    def run(images: Tensor) -> None:
        if next(calls) >= at:
            raise MemoryError("no room\nleft")

    return run


def raising_above(most: int) -> Run:
    """Fails on batches that are larger."""

    def run(images: Tensor) -> None:
        if len(images) > most:
            raise RuntimeError(f"batch of {len(images)}")

    return run


def dying(at: int) -> Run:
    """Takes its process along at its call `at`."""
    calls = iter(range(1, 10**9))

    def run(images: Tensor) -> None:
        if next(calls) >= at:
            os._exit(3)

    return run


def killed(at: int) -> Run:
    """Is killed at its call `at`, as the kernel does when memory runs out."""
    calls = iter(range(1, 10**9))

    def run(images: Tensor) -> None:
        if next(calls) >= at:
            os.kill(os.getpid(), 9)

    return run


def hanging(at: int) -> Run:
    """Never returns from its call `at`."""
    calls = iter(range(1, 10**9))

    def run(images: Tensor) -> None:
        if next(calls) >= at:
            time.sleep(10**6)

    return run


def taking(seconds: float) -> Run:
    """Takes that long."""

    def run(images: Tensor) -> None:
        time.sleep(seconds)

    return run


def not_made() -> Run:
    """Cannot even be built."""
    raise ValueError("no weights\nhere")
