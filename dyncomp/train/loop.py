"""The loop that runs a method's stages."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import count, pairwise
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.utils import convert_conv2d_weight_memory_format
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from dyncomp.core import Net, Stage, measure_costs
from dyncomp.data import Batch, Split
from dyncomp.errors import InvalidValue
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
    spent: float = 0.0,
) -> list[StageLog]:
    """Train `net` on `split` through the stages, each for its share of the steps of the budget that is left.

    `spent` is the share of the budget that was used beforehand (pretraining); the stream of batches goes on behind it.
    The batches and their order depend on `seed` alone, never on the method; what gates draw depends on it too, and the
    caller's random state is left as it is. Only the parameters that a stage names learn; the others are held. The
    network is left in evaluation mode, thresholding, its kernels channels-last. Raises Diverged, and InvalidValue where
    stages are left without a step.
    """
    per_epoch = _steps_per_epoch(recipe, len(split))
    steps = _apportion(_own_steps(stages, recipe, len(split), spent), stages)
    with own_randomness(_device(net), seed):
        clock = Clock(per_epoch, sum(steps), report)
        training = _Training(net, split, recipe, seed, clock, first_epoch=math.ceil(recipe.epochs * spent))
        planned = zip(stages, steps, curves_of(stages, steps), strict=True)
        return [training.run(stage, number, curve) for stage, number, curve in planned]


class Curve(NamedTuple):
    """Where on its curve of the learning rate a stage begins, the steps of that curve, and whether it rises."""

    begin: int
    steps: int
    rises: bool


def curves_of(stages: Sequence[Stage], steps: Sequence[int]) -> list[Curve]:
    """For each stage, of so many steps, its part of a curve; one that `restarts` begins a new one."""
    starts = [index for index, stage in enumerate(stages) if index == 0 or stage.restarts]
    curves = []
    for start, end in pairwise([*starts, len(stages)]):
        length, rises = sum(steps[start:end]), not stages[start].restarts
        curves += [Curve(sum(steps[start:index]), length, rises) for index in range(start, end)]
    return curves


def check_budget(stages: Sequence[Stage], recipe: Recipe, images: int, spent: float, spec: str) -> None:
    """Raise InvalidValue where stages of a method would have fewer steps, or fewer of their `epochs`, than they need.

    `images` is the size of the training split, `spent` the share of the budget that was used beforehand.
    """
    try:
        _own_steps(stages, recipe, images, spent)
    except InvalidValue as error:
        raise InvalidValue(f"{spec}: {error}") from None
    own = recipe.epochs * (1 - spent)
    for stage in stages:
        if stage.share * own < stage.epochs - 1e-9:
            raise InvalidValue(
                f"{spec}: stage {stage.name!r} has {stage.share * own:.2g} epochs of the budget and needs "
                f"{stage.epochs:g}; give a budget of {stage.epochs / stage.share / (1 - spent):g} epochs"
            )


def _own_steps(stages: Sequence[Stage], recipe: Recipe, images: int, spent: float) -> int:
    """The steps of the budget that are left for the stages. Raises InvalidValue where they are fewer than these."""
    per_epoch = _steps_per_epoch(recipe, images)
    steps = round(recipe.epochs * per_epoch) - round(recipe.epochs * spent * per_epoch)
    if steps < len(stages):
        least = (len(stages) + (spent > 0)) / (1 - spent) / per_epoch  # one more, as both ends are rounded
        raise InvalidValue(
            f"a budget of {recipe.epochs:g} epochs on {images} images leaves {steps} steps of {recipe.batch_size} "
            f"images for {len(stages)} stages of training; give {math.ceil(least * 100) / 100:g} epochs or more"
        )
    return steps


def _steps_per_epoch(recipe: Recipe, images: int) -> int:
    return max(1, images // recipe.batch_size)


class _Training:
    """What all stages share: the stream of batches, the recipe and the clock."""

    def __init__(self, net: Net, split: Split, recipe: Recipe, seed: int, clock: Clock, first_epoch: int) -> None:
        self.net, self.split, self.recipe, self.clock = net, split, recipe, clock
        self.device = _device(net)
        self.batches = _endless(split, recipe, seed, first_epoch)
        self.optimizer: Optimizer | None = None
        self.probe = images_of(next(iter(split.batches(min(PROBE, len(split))))), self.device)

    def run(self, stage: Stage, steps: int, curve: Curve) -> StageLog:
        """Train one stage."""
        net = self._ready(stage)
        try:
            self._steps(net, stage, steps, curve)
        finally:
            net.sampling = False
            net.requires_grad_(True)
            net.eval()
        return self.clock.log

    def _steps(self, net: Net, stage: Stage, steps: int, curve: Curve) -> None:
        low = trains_in_bfloat16(net, self.probe[:1])
        for name, parameter in net.named_parameters():
            parameter.requires_grad_(stage.trains(name))
        learning = {name: parameter for name, parameter in net.named_parameters() if parameter.requires_grad}
        optimizer = self._optimizer(learning, stage)
        schedule = LambdaLR(optimizer, lambda step: self.recipe.factor(curve.begin + step, curve.steps, curve.rises))
        self.clock.start(stage.name, steps, watch=GateWatch(net, self.probe))
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

    def _optimizer(self, learning: Mapping[str, nn.Parameter], stage: Stage) -> Optimizer:
        """The stage's optimizer; on one curve of the learning rate it goes on with the momentum of the stage before."""
        optimizer, before = self.recipe.optimizer(learning, stage), self.optimizer
        if before is not None and type(before) is type(optimizer) and not stage.restarts:
            for parameter in learning.values():
                if parameter in before.state:
                    optimizer.state[parameter] = before.state[parameter]
        self.optimizer = optimizer
        return optimizer

    def _ready(self, stage: Stage) -> Net:
        """The network as the stage begins."""
        net = self.net
        if stage.prepare is not None:
            net.eval()
            stage.prepare(net, partial(once, self.split, self.device))
        if net.costs is None:
            net.costs = measure_costs(net, self.probe[:1])
        convert_conv2d_weight_memory_format(net, torch.channels_last)
        net.train()
        stage.hold_batch_norms(net)
        net.sampling = stage.sampling
        return net

    def _forward(self, net: Net, stage: Stage, progress: float, low: bool) -> tuple[Tensor, Tensor]:
        batch = next(self.batches)
        with torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=low):
            output = net(images_of(batch, self.device))
        loss = stage.loss(output, batch.labels.to(self.device), progress)
        return loss, output.share().detach().mean()


def once(split: Split, device: torch.device) -> Iterator[tuple[Tensor, Tensor]]:
    """The split's images (B, C, H, W), in order and as they are, and their labels (B,), on the device."""
    for batch in split.batches(PROBE):
        yield images_of(batch, device), batch.labels.to(device)


def images_of(batch: Batch, device: torch.device) -> Tensor:
    """A batch's images on the device, channels-last."""
    return batch.images.to(device, memory_format=torch.channels_last, non_blocking=True)


def _device(net: Net) -> torch.device:
    return next(net.parameters()).device


@contextmanager
def own_randomness(device: torch.device, seed: int) -> Iterator[None]:
    """Random numbers seeded by `seed` inside, the caller's state afterwards as it was before."""
    gpus = range(torch.cuda.device_count()) if device.type == "cuda" else ()
    with torch.random.fork_rng(list(gpus)):
        torch.manual_seed(seed)
        yield


def _apportion(total: int, stages: Sequence[Stage]) -> list[int]:
    """Whole steps for each stage, at least one, adding up to `total`, which is at least the number of stages."""
    ends, share = [0], 0.0
    for left, stage in zip(reversed(range(len(stages))), stages, strict=True):
        share += stage.share
        end = round(total * share) if left else total
        ends.append(min(max(end, ends[-1] + 1), total - left))
    return [end - start for start, end in pairwise(ends)]


def _endless(split: Split, recipe: Recipe, seed: int, first_epoch: int) -> Iterator[Batch]:
    for epoch in count(first_epoch):
        yield from split.batches(recipe.batch_size, epoch=epoch, seed=seed, augment=recipe.augment)
