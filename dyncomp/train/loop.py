"""The loop that runs a method's stages."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn.utils import convert_conv2d_weight_memory_format

from dyncomp.core import Net, Stage
from dyncomp.data import Batch, Split
from dyncomp.errors import DyncompError
from dyncomp.train.precision import trains_in_bfloat16
from dyncomp.train.recipe import Recipe

TELL_EVERY_S = 0.5


class Diverged(DyncompError):
    """The loss is no longer a finite number."""


@dataclass(frozen=True)
class Progress:
    """Where a training stands: `loss` and `share` (MACs as a share of the plain network's) are means since last told.

    `epoch` counts from 1 over all stages; `done` is from 0 to 1; `seconds` since the training began.
    """

    stage: str
    epoch: int
    epochs: int
    loss: float
    share: float
    done: float
    seconds: float


@dataclass
class StageLog:
    """What happened in a stage; `log` has rows [epoch, mean loss, mean share of the plain network's MACs]."""

    name: str
    epochs: float
    seconds: float = 0.0
    log: list[tuple[int, float, float]] = field(default_factory=list)


def train(
    net: Net,
    split: Split,
    stages: Sequence[Stage],
    recipe: Recipe,
    seed: int,
    report: Callable[[Progress], None] = lambda progress: None,
) -> list[StageLog]:
    """Train `net` on `split` through the stages, each for its share of the budget's steps.

    The batches and their order depend on `seed` alone, never on the method. Only the parameters that a stage names
    learn; the others are held. The network is left in evaluation mode, thresholding. Raises Diverged.
    """
    per_epoch = max(1, len(split) // recipe.batch_size)
    steps = _apportion(max(len(stages), round(recipe.epochs * per_epoch)), stages)
    batches = _endless(split, recipe.batch_size, seed)
    clock = _Clock(per_epoch, sum(steps), report)
    convert_conv2d_weight_memory_format(net, torch.channels_last)
    image = next(split.batches(1)).images.to(next(net.parameters()).device)
    clock.low = trains_in_bfloat16(net, image)
    try:
        return [
            _run_stage(net, stage, count, recipe, batches, clock)
            for stage, count in zip(stages, steps, strict=True)
        ]
    finally:
        net.tape.sampling = False
        net.requires_grad_(True)
        net.eval()


def _run_stage(
    net: Net, stage: Stage, steps: int, recipe: Recipe, batches: Iterator[Batch], clock: _Clock
) -> StageLog:
    net.train()
    if stage.hold_statistics:
        _hold_statistics(net)
    net.tape.sampling = stage.sampling
    learning = _hold_all_but(net, stage)
    optimizer = recipe.optimizer(learning, stage.learning_rate)
    schedule = recipe.schedule(optimizer, steps)
    clock.start(StageLog(stage.name, steps / clock.per_epoch))
    for step in range(steps):
        loss, share = _forward(net, stage, next(batches), step / steps, clock.low)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(learning, recipe.clip)
        optimizer.step()
        schedule.step()
        clock.tick(loss.detach(), share, last=step + 1 == steps)
    return clock.log


def _forward(
    net: Net, stage: Stage, batch: Batch, progress: float, low: bool
) -> tuple[Tensor, Tensor]:
    device = next(net.parameters()).device
    images = batch.images.to(device, memory_format=torch.channels_last, non_blocking=True)
    with torch.autocast(device.type, dtype=torch.bfloat16, enabled=low):
        output = net(images)
    loss = stage.loss(output, batch.labels.to(device), progress)
    return loss, output.share().detach().mean()


def _hold_statistics(net: Net) -> None:
    for layer in net.modules():
        if isinstance(layer, nn.modules.batchnorm._BatchNorm):
            layer.eval()


def _hold_all_but(net: Net, stage: Stage) -> list[nn.Parameter]:
    for name, parameter in net.named_parameters():
        parameter.requires_grad_(stage.trains(name))
    return [p for p in net.parameters() if p.requires_grad]


def _apportion(total: int, stages: Sequence[Stage]) -> list[int]:
    """Whole steps for each stage, at least one, adding up to `total`."""
    ends, share = [], 0.0
    for stage in stages:
        share += stage.share
        ends.append(round(total * share))
    steps = [max(1, end - start) for start, end in zip([0, *ends], ends, strict=False)]
    steps[-1] += total - sum(steps)
    return steps


def _endless(split: Split, batch_size: int, seed: int) -> Iterator[Batch]:
    epoch = 0
    while True:
        yield from split.batches(batch_size, epoch=epoch, seed=seed, augment=True)
        epoch += 1


class _Clock:
    """Counts steps and epochs over all stages, averages what happened since it last told, and tells."""

    def __init__(self, per_epoch: int, total: int, report: Callable[[Progress], None]) -> None:
        self.per_epoch, self.total, self.report = per_epoch, total, report
        self.done = 0
        self.begin = time.perf_counter()

    def start(self, log: StageLog) -> None:
        """A stage begins."""
        self.log = log
        self.stage_begin = self.told = time.perf_counter()
        self.epoch_values: list[Tensor] = []

    def tick(self, loss: Tensor, share: Tensor, last: bool) -> None:
        """A step is done."""
        self.done += 1
        self.epoch_values.append(torch.stack([loss.double(), share.double().to(loss.device)]))
        ends = self.done % self.per_epoch == 0 or last
        if ends or time.perf_counter() - self.told > TELL_EVERY_S:
            self._tell(ends)
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
        self.report(Progress(self.log.name, epoch, epochs, loss, share, done, self.told - self.begin))
        if epoch_ends:
            self.log.log.append((epoch, loss, share))
            self.epoch_values = []
