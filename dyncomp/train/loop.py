"""The loop that runs a method's stages."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count, pairwise

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
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


@dataclass
class StageLog:
    """What happened in a stage; `log` has rows (epoch, mean loss, mean share of the plain network's MACs)."""

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

    The batches and their order depend on `seed` alone, never on the method; what gates draw depends on it too, and the
    caller's random state is left as it is. Only the parameters that a stage names learn; the others are held. The
    network is left in evaluation mode, thresholding, its kernels channels-last. Raises Diverged.
    """
    per_epoch = max(1, len(split) // recipe.batch_size)
    steps = _apportion(max(len(stages), round(recipe.epochs * per_epoch)), stages)
    convert_conv2d_weight_memory_format(net, torch.channels_last)
    with _own_randomness(_device(net), seed):
        training = _Training(net, split, recipe, seed, _Clock(per_epoch, sum(steps), report))
        try:
            return [training.run(stage, number) for stage, number in zip(stages, steps, strict=True)]
        finally:
            net.tape.sampling = False
            net.requires_grad_(True)
            net.eval()


class _Training:
    """What all stages share: the network, the stream of batches, the recipe and the clock."""

    def __init__(self, net: Net, split: Split, recipe: Recipe, seed: int, clock: _Clock) -> None:
        self.net, self.recipe, self.clock = net, recipe, clock
        self.device = _device(net)
        self.batches = _endless(split, recipe.batch_size, seed)
        image = next(iter(split.batches(1))).images
        self.low = trains_in_bfloat16(net, image.to(self.device))

    def run(self, stage: Stage, steps: int) -> StageLog:
        """Train one stage."""
        self.net.train()
        if stage.hold_statistics:
            _hold_statistics(self.net)
        self.net.tape.sampling = stage.sampling
        learning = _hold_all_but(self.net, stage)
        optimizer = self.recipe.optimizer(learning, stage.learning_rate)
        schedule = self.recipe.schedule(optimizer, steps)
        self.clock.start(stage.name, steps)
        for step in range(steps):
            loss, share = self._forward(stage, next(self.batches), step / steps)
            optimizer.zero_grad(set_to_none=True)
            torch.autograd.backward(loss)
            nn.utils.clip_grad_norm_(learning.values(), self.recipe.clip)
            optimizer.step()
            schedule.step()
            self.clock.tick(loss.detach(), share, last=step + 1 == steps)
        return self.clock.log

    def _forward(self, stage: Stage, batch: Batch, progress: float) -> tuple[Tensor, Tensor]:
        images = batch.images.to(self.device, memory_format=torch.channels_last, non_blocking=True)
        with torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.low):
            output = self.net(images)
        loss = stage.loss(output, batch.labels.to(self.device), progress)
        return loss, output.share().detach().mean()


class _Clock:
    """Counts steps and epochs over all stages, averages over an epoch, and tells every half second."""

    def __init__(self, per_epoch: int, total: int, report: Callable[[Progress], None]) -> None:
        self.per_epoch, self.total, self.report = per_epoch, total, report
        self.done = 0
        self.begin = time.perf_counter()
        self.start("", 0)

    def start(self, stage: str, steps: int) -> None:
        """A stage of that many steps begins."""
        self.log = StageLog(stage, steps / self.per_epoch)
        self.stage_begin = self.told = time.perf_counter()
        self.epoch_values: list[Tensor] = []

    def tick(self, loss: Tensor, share: Tensor, last: bool) -> None:
        """A step is done. Raises Diverged."""
        self.done += 1
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
        self.report(Progress(self.log.name, epoch, epochs, loss, share, done, self.told - self.begin))
        if epoch_ends:
            self.log.log.append((epoch, loss, share))
            self.epoch_values = []


def _device(net: Net) -> torch.device:
    return next(net.parameters()).device


@contextmanager
def _own_randomness(device: torch.device, seed: int) -> Iterator[None]:
    """Random numbers seeded by `seed` inside, the caller's state afterwards as it was before."""
    gpus = range(torch.cuda.device_count()) if device.type == "cuda" else ()
    with torch.random.fork_rng(list(gpus)):
        torch.manual_seed(seed)
        yield


def _hold_statistics(net: Net) -> None:
    for layer in net.modules():
        if isinstance(layer, _BatchNorm):
            layer.eval()


def _hold_all_but(net: Net, stage: Stage) -> dict[str, nn.Parameter]:
    """Let the stage's parameters learn, and only them; returns them by name."""
    for name, parameter in net.named_parameters():
        parameter.requires_grad_(stage.trains(name))
    return {name: parameter for name, parameter in net.named_parameters() if parameter.requires_grad}


def _apportion(total: int, stages: Sequence[Stage]) -> list[int]:
    """Whole steps for each stage, at least one, adding up to `total`, which is at least the number of stages."""
    ends, share = [0], 0.0
    for left, stage in zip(reversed(range(len(stages))), stages, strict=True):
        share += stage.share
        end = round(total * share) if left else total
        ends.append(min(max(end, ends[-1] + 1), total - left))
    return [end - start for start, end in pairwise(ends)]


def _endless(split: Split, batch_size: int, seed: int) -> Iterator[Batch]:
    for epoch in count():
        yield from split.batches(batch_size, epoch=epoch, seed=seed, augment=True)
