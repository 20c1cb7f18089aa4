"""Where a training stands, and what is told and kept of it."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from dyncomp.errors import DyncompError
from dyncomp.train.watch import GateWatch

TELL_EVERY_S = 0.5
LOOKS = 10
"""times in a stage that gates are watched"""


class Diverged(DyncompError):
    """The loss is no longer a finite number."""


@dataclass(frozen=True)
class Progress:
    """Where a training stands: `loss` and `share` (MACs as a share of the plain network's) are means of this epoch.

    `epoch` counts from 1 over all stages; `done` rises to 1; `seconds` since the training began.
    """

    stage: str
    epoch: int
    epochs: int
    loss: float
    share: float
    done: float
    seconds: float
    warning: str = ""


@dataclass
class StageLog:
    """What happened in a stage.

    `log` has rows (epoch, mean loss, mean share of the plain network's MACs); `routes` rows (epoch, distinct routes of
    a fixed batch of training images, as they would be in use); `rates` at the same epochs, by site, the mean share of
    its units that run for these images; `warnings` what went wrong with the gates.
    """

    name: str
    epochs: float
    seconds: float = 0.0
    log: list[tuple[int, float, float]] = field(default_factory=list)
    routes: list[tuple[int, int]] = field(default_factory=list)
    rates: list[dict[str, float]] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


class Clock:
    """Counts steps and epochs over all stages, averages over an epoch, and tells every half second."""

    def __init__(self, per_epoch: int, total: int, report: Callable[[Progress], None]) -> None:
        self.per_epoch, self.total, self.report = per_epoch, total, report
        self.done = 0
        self.begin = time.perf_counter()
        self.start("", 0, None)

    def start(self, stage: str, steps: int, watch: GateWatch | None) -> None:
        """A stage of that many steps begins."""
        self.log = StageLog(stage, steps / self.per_epoch)
        self.watch = watch
        self.stage_done, self.stage_steps = 0, steps
        self.stage_begin = self.told = time.perf_counter()
        self.epoch_values: list[Tensor] = []

    def tick(self, loss: Tensor, share: Tensor, last: bool) -> None:
        """A step is done. Raises Diverged."""
        self.done += 1
        self.stage_done += 1
        self.epoch_values.append(torch.stack([loss.double(), share.double().to(loss.device)]))
        epoch_ends = self.done % self.per_epoch == 0 or last
        if epoch_ends or time.perf_counter() - self.told > TELL_EVERY_S:
            self._tell(epoch_ends)
        if last:
            self.log.seconds = time.perf_counter() - self.stage_begin

    def _tell(self, epoch_ends: bool) -> None:
        loss, share = torch.stack(self.epoch_values).mean(0).tolist()
        epoch, epochs = -(-self.done // self.per_epoch), -(-self.total // self.per_epoch)
        if not math.isfinite(loss):
            raise Diverged(
                f"the loss is {loss} in stage {self.log.name}, epoch {epoch} of {epochs}; "
                "train longer, or give the method weaker pressure"
            )
        self.told = time.perf_counter()
        done = self.done / self.total
        warning = self._watched(epoch) if epoch_ends else ""
        self.report(Progress(self.log.name, epoch, epochs, loss, share, done, self.told - self.begin, warning))
        if epoch_ends:
            self.log.log.append((epoch, loss, share))
            self.epoch_values = []

    def _watched(self, epoch: int) -> str:
        """What is to be said of the gates at the end of an epoch; about ten times in a stage."""
        last = self.stage_done == self.stage_steps
        every = max(1, self.stage_steps // (LOOKS * self.per_epoch))
        if self.watch is None or not (last or epoch % every == 0):
            return ""
        warning = self.watch.look(self.log.name, epoch, last)
        self.log.routes.append((epoch, self.watch.routes))
        self.log.rates.append(self.watch.rates)
        if warning:
            self.log.warnings.append(warning)
        return warning
