"""How long one pass takes: by the processor's clock, or on a CUDA device by events in its own stream."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

Run = Callable[[Tensor], Any]
"""a form of a network: images (B, C, H, W) in, anything out"""


class Clock(ABC):
    """Times one pass on one device; `name` stands in the record."""

    name: ClassVar[str]

    @abstractmethod
    def milliseconds(self, run: Run, batch: Tensor) -> float:
        """Run it once on the batch; what it returns is thrown away."""


@dataclass(frozen=True)
class ProcessorClock(Clock):
    """From the call to its return; work that a device other than the processor still has is waited for."""

    device: torch.device
    name = "perf_counter"

    def milliseconds(self, run: Run, batch: Tensor) -> float:
        """By the processor's clock."""
        self._wait()
        begin = time.perf_counter_ns()
        run(batch)
        self._wait()
        return (time.perf_counter_ns() - begin) / 1e6

    def _wait(self) -> None:
        if self.device.type != "cpu":
            torch.accelerator.synchronize(self.device)


@dataclass(frozen=True)
class CudaEvents(Clock):
    """From an event before the first kernel to one after the last, on an idle device: gaps between kernels count."""

    device: torch.device
    name = "cuda events"

    def milliseconds(self, run: Run, batch: Tensor) -> float:
        """By the device's own clock."""
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
        torch.cuda.synchronize(self.device)
        begin.record()
        run(batch)
        end.record()
        end.synchronize()
        return float(begin.elapsed_time(end))


def clock_of(device: torch.device) -> Clock:
    """The clock that a device is timed by."""
    return CudaEvents(device) if device.type == "cuda" else ProcessorClock(device)
