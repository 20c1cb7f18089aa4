"""The loop that runs a method's stages."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import count, pairwise

import torch
from torch import Tensor, nn
from torch.nn.utils import convert_conv2d_weight_memory_format

from dyncomp.core import Net, Stage, measure_costs
from dyncomp.core.decisions import all_on
from dyncomp.data import Batch, Split
from dyncomp.train.clock import Clock, Progress, StageLog
from dyncomp.train.precision import trains_in_bfloat16
from dyncomp.train.recipe import Recipe
from dyncomp.train.watch import GateWatch

PROBE = 256
"""images that gates are watched on"""


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
    with _own_randomness(_device(net), seed):
        training = _Training(net, split, recipe, seed, Clock(per_epoch, sum(steps), report))
        return [training.run(stage, number) for stage, number in zip(stages, steps, strict=True)]


class _Training:
    """What all stages share: the stream of batches, the recipe and the clock."""

    def __init__(self, net: Net, split: Split, recipe: Recipe, seed: int, clock: Clock) -> None:
        self.net, self.split, self.recipe, self.clock = net, split, recipe, clock
        self.device = _device(net)
        self.batches = _endless(split, recipe.batch_size, seed)
        self.probe = self._images(next(iter(split.batches(min(PROBE, len(split))))))

    def run(self, stage: Stage, steps: int) -> StageLog:
        """Train one stage."""
        net = self._ready(stage)
        try:
            self._steps(net, stage, steps)
        finally:
            net.sampling = False
            net.requires_grad_(True)
            net.eval()
        return self.clock.log

    def _steps(self, net: Net, stage: Stage, steps: int) -> None:
        low = trains_in_bfloat16(net, self.probe[:1])
        learning = _hold_all_but(net, stage)
        optimizer = self.recipe.optimizer(learning, stage)
        schedule = self.recipe.schedule(optimizer, steps, stage.warmup)
        self.clock.start(stage.name, steps, watch=None if stage.all_on else GateWatch(net, self.probe))
        for step in range(steps):
            if stage.adjust is not None:
                stage.adjust(net, step / steps)
            loss, share = self._forward(net, stage, step / steps, low)
            optimizer.zero_grad(set_to_none=True)
            torch.autograd.backward(loss)
            nn.utils.clip_grad_norm_(learning.values(), self.recipe.clip)
            optimizer.step()
            schedule.step()
            self.clock.tick(loss.detach(), share, last=step + 1 == steps)

    def _ready(self, stage: Stage) -> Net:
        """The network that the stage trains, as it begins."""
        if stage.prepare is not None:
            self.net.eval()
            stage.prepare(self.net, self._once)
        net = stage.trained(self.net).to(self.device)
        if net.costs is None:
            net.costs = measure_costs(net, self.probe[:1])
        convert_conv2d_weight_memory_format(net, torch.channels_last)
        net.train()
        stage.hold_batch_norms(net)
        net.sampling = stage.sampling
        return net

    def _once(self) -> Iterator[tuple[Tensor, Tensor]]:
        for batch in self.split.batches(PROBE):
            yield self._images(batch), batch.labels.to(self.device)

    def _images(self, batch: Batch) -> Tensor:
        return batch.images.to(self.device, memory_format=torch.channels_last, non_blocking=True)

    def _forward(self, net: Net, stage: Stage, progress: float, low: bool) -> tuple[Tensor, Tensor]:
        batch = next(self.batches)
        images = self._images(batch)
        decisions = all_on(net, len(images)) if stage.all_on else None
        with torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=low):
            output = net(images, decisions=decisions)
        loss = stage.loss(output, batch.labels.to(self.device), progress)
        return loss, output.share().detach().mean()


def _device(net: Net) -> torch.device:
    return next(net.parameters()).device


@contextmanager
def _own_randomness(device: torch.device, seed: int) -> Iterator[None]:
    """Random numbers seeded by `seed` inside, the caller's state afterwards as it was before."""
    gpus = range(torch.cuda.device_count()) if device.type == "cuda" else ()
    with torch.random.fork_rng(list(gpus)):
        torch.manual_seed(seed)
        yield


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
