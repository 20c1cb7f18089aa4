"""What must hold for every method on every backbone; a method is tested by these checks with no test written.

Each check takes a Case and raises NotConforming, one line that says what differs and by how much. All run in float64 on
a small network whose normalisations have seen images, so that no signal fades on the way.
"""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor, nn

from dyncomp._build import build
from dyncomp.core import Decision, Method, Net, Stage, count_executed_macs, execute_and_count, measure_costs
from dyncomp.core.decisions import all_on, least, random
from dyncomp.registry import BACKBONES, METHODS
from dyncomp.spec import spec_of
from dyncomp.train import load_checkpoint, save_checkpoint

TOLERANCE = 1e-10
IMAGES = 8
Forced = Mapping[str, Decision] | None


class NotConforming(AssertionError):
    """A promise that the method does not keep."""


@dataclass(frozen=True)
class Case:
    """A method on a backbone, for square images of `image_size` pixels."""

    method: Method
    backbone: str
    image_size: int = 16
    in_channels: int = 3
    classes: int = 5

    def fresh(self, method: str | Method | None = None) -> Net:
        """A newly built network in float64, the same at every call."""
        net = build(
            method or self.method,
            self.backbone,
            classes=self.classes,
            in_channels=self.in_channels,
            image_size=self.image_size,
        )
        return net.double()

    def images(self, seed: int = 0) -> Tensor:
        """(8, C, H, W) images."""
        shape = (IMAGES, self.in_channels, self.image_size, self.image_size)
        return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)

    def labels(self) -> Tensor:
        """(8,) labels."""
        return torch.arange(IMAGES) % self.classes

    @cached_property
    def net(self) -> Net:
        """The settled network in evaluation mode; checks leave it as it is."""
        return settle(self.fresh(), self.images())

    def ways(self) -> dict[str, Forced]:
        """The decisions under which forms are compared: its own, all on, the least allowed, random ones."""
        generator = torch.Generator().manual_seed(1)
        return {
            "its own decisions": None,
            "all on": all_on(self.net, IMAGES),
            "the least allowed": least(self.net, IMAGES),
            "random decisions": random(self.net, IMAGES, generator),
        }


def settle(net: Net, images: Tensor) -> Net:
    """Let the normalisations see images, everything on; then evaluation mode."""
    for layer in net.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.momentum = None  # the plain mean over batches
    net.train()
    with torch.no_grad():
        net(images, decisions=all_on(net, len(images)))
    return net.eval()


@torch.no_grad()
def dense_equals_sparse(case: Case) -> None:
    """Both forms give the same logits under the same decisions."""
    for way, forced in case.ways().items():
        dense = case.net(case.images(), sparse=False, decisions=forced)
        sparse = case.net(case.images(), sparse=True, decisions=forced)
        _equal(dense.logits, sparse.logits, f"dense and sparse logits differ under {way}")
        _equal(dense.macs(), sparse.macs(), f"dense and sparse prices differ under {way}")


@torch.no_grad()
def batch_equals_images(case: Case) -> None:
    """A batch gives each image what it gets alone."""
    images = case.images()
    for way, forced in case.ways().items():
        together = case.net(images, decisions=forced)
        for i in range(IMAGES):
            alone = case.net(images[i : i + 1], decisions=_rows(forced, slice(i, i + 1)))
            _equal(alone.logits, together.logits[i : i + 1], f"image {i} alone differs from image {i} of 8 under {way}")
            _equal(alone.macs(), together.macs()[i : i + 1], f"the price of image {i} alone differs under {way}")


@torch.no_grad()
def price_equals_executed(case: Case) -> None:
    """Priced MACs are those of the operators that ran, as integers, per batch and per image."""
    images = case.images()
    for way, forced in case.ways().items():
        priced = case.net(images, decisions=forced).macs()
        ran = execute_and_count(case.net, images, forced)
        if ran.uncounted:
            raise NotConforming(f"operators without a known cost ran: {', '.join(sorted(ran.uncounted))}")
        if int(priced.sum()) != ran.macs:
            raise NotConforming(f"priced {int(priced.sum())} MACs, executed {ran.macs}, under {way}")
        for i in range(IMAGES):
            macs = execute_and_count(case.net, images[i : i + 1], _rows(forced, slice(i, i + 1))).macs
            if int(priced[i]) != macs:
                raise NotConforming(f"image {i}: priced {int(priced[i])} MACs, executed {macs}, under {way}")


def all_on_equals_plain(case: Case) -> None:
    """With everything on, a method that claims so is its plain backbone, in evaluation and in training."""
    if not case.method.all_on_is_plain:
        return
    images, net, plain = case.images(), case.fresh(), case.fresh("static")
    for training in (True, False):
        net.train(training)
        plain.train(training)
        with torch.no_grad():
            torch.manual_seed(0)  # the same dropout
            ours = net(images, sparse=False, decisions=all_on(net, IMAGES)).logits
            torch.manual_seed(0)
            _equal(ours, plain(images).logits, f"all on is not the plain backbone, training={training}")
    assert net.costs is not None and plain.costs is not None
    if net.costs.without_overhead != plain.costs.full:
        raise NotConforming(f"all on costs {net.costs.without_overhead} MACs without gates, plain {plain.costs.full}")


def stages_train_what_they_claim(case: Case) -> None:
    """In each stage every parameter that it claims gets a finite gradient, the others none; shares add up to 1."""
    stages = case.method.stages()
    if abs(sum(stage.share for stage in stages) - 1) > 1e-9:
        raise NotConforming(f"the stages' shares add up to {sum(stage.share for stage in stages)}, not to 1")
    for stage in stages:
        _check_gradients(case, stage)


def _check_gradients(case: Case, stage: Stage) -> None:
    torch.manual_seed(0)
    net = case.fresh().train()
    net.tape.sampling = stage.sampling
    for name, parameter in net.named_parameters():
        parameter.requires_grad_(stage.trains(name))
    stage.loss(net(case.images()), case.labels(), 1.0).backward()
    for name, parameter in net.named_parameters():
        if stage.trains(name) and (parameter.grad is None or not bool(parameter.grad.isfinite().all())):
            raise NotConforming(f"stage {stage.name}: {name} gets no finite gradient")
        if not stage.trains(name) and parameter.grad is not None:
            raise NotConforming(f"stage {stage.name}: {name} gets a gradient but is not claimed")


@torch.no_grad()
def evaluation_is_deterministic(case: Case) -> None:
    """In evaluation neither the random state nor an earlier batch changes an answer, and decisions are 0 or 1."""
    images = case.images()
    first = case.net(images)
    torch.manual_seed(99)
    case.net(case.images(seed=5))
    second = case.net(images)
    _equal(first.logits, second.logits, "two evaluations of the same images differ")
    for site, decision in first.trace.items():
        units = case.net.sites[site].units
        if tuple(decision.used.shape) != (IMAGES, units):
            raise NotConforming(f"{site}: used has shape {tuple(decision.used.shape)}, not {(IMAGES, units)}")
        if not bool(((decision.used == 0) | (decision.used == 1)).all()):
            raise NotConforming(f"{site}: used is neither 0 nor 1 in evaluation")


@torch.no_grad()
def survives_save_copy_and_layout(case: Case) -> None:
    """Spec, checkpoint and deep copy round trips, and channels-last images, change nothing."""
    text = spec_of(case.method)
    if METHODS.create(text) != case.method:
        raise NotConforming(f"spec {text} does not give the method back")
    images = case.images()
    wanted = case.net(images).logits
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "net.safetensors"
        save_checkpoint(case.net, path, {})
        other = case.fresh()
        load_checkpoint(other, path)
    _equal(other.eval()(images).logits, wanted, "a saved and loaded network answers otherwise")
    _equal(copy.deepcopy(case.net)(images).logits, wanted, "a deep copy answers otherwise")
    lasting = images.contiguous(memory_format=torch.channels_last)
    _equal(case.net(lasting).logits, wanted, "channels-last images are answered otherwise")


@torch.no_grad()
def costs_add_up(case: Case) -> None:
    """Measured costs are those of the network with everything on, and the same at a second measurement."""
    image = case.images()[:1]
    costs = measure_costs(case.net, image)
    if costs != measure_costs(case.net, image):
        raise NotConforming("two measurements of the costs differ")
    ran = count_executed_macs(case.net, image, all_on(case.net, 1))
    if costs.full != ran:
        raise NotConforming(f"costs add up to {costs.full} MACs, with everything on {ran} ran")


Check = Callable[[Case], None]
CHECKS: dict[str, Check] = {
    check.__name__: check
    for check in (
        dense_equals_sparse,
        batch_equals_images,
        price_equals_executed,
        all_on_equals_plain,
        stages_train_what_they_claim,
        evaluation_is_deterministic,
        survives_save_copy_and_layout,
        costs_add_up,
    )
}


def method_examples() -> list[str]:
    """For every registered method its default spec, and the further ones that its class names in `examples`."""
    return [spec for entry in METHODS.entries() for spec in (entry.name, *entry.load().examples)]


def backbone_examples() -> list[str]:
    """For every registered backbone the small ones that its class names in `examples`."""
    return [spec for entry in BACKBONES.entries() for spec in getattr(entry.load(), "examples", (entry.name,))]


def _rows(forced: Forced, rows: slice) -> Forced:
    return None if forced is None else {site: d.map(lambda t: t[rows]) for site, d in forced.items()}


def _equal(a: Tensor, b: Tensor, what: str) -> None:
    difference = float((a - b).abs().max() / b.abs().max().clamp_min(1.0))
    if not difference <= TOLERANCE:
        raise NotConforming(f"{what} (by {difference:.2g}; allowed {TOLERANCE:.0e})")
