"""A method on a backbone, and the passes that the checks look at."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from dyncomp._build import build
from dyncomp.conformance.examples import CLASSES, SIDE
from dyncomp.core import Decision, Executed, Method, Net, Output
from dyncomp.core.counter import MacCounter
from dyncomp.core.decisions import all_on, least, random
from dyncomp.fast import in_turn

TOLERANCE = 1e-9
MANY, FEW = 8, 3
LARGE = 3_000_000
"""Parameters from which on a network is tried with few images."""

Forced = Mapping[str, Decision] | None


class NotConforming(AssertionError):
    """A promise that the method does not keep."""


@dataclass(frozen=True)
class Pass:
    """The same images under the same decisions: in both forms as a batch, and one by one.

    `ran` and `ran_alone` are the operators that executed in the sparse form.
    """

    dense: Output
    sparse: Output
    ran: Executed
    alone: list[Output]
    ran_alone: list[Executed]


@dataclass(frozen=True)
class Case:
    """A method on a backbone, for square images of `image_size` pixels."""

    method: Method
    backbone: str
    image_size: int = SIDE
    in_channels: int = 3
    classes: int = CLASSES

    def build(self, method: str | Method) -> Net:
        """That method's network in float64, built anew, the same at every call."""
        shape = {"classes": self.classes, "in_channels": self.in_channels, "image_size": self.image_size}
        return build(method, self.backbone, **shape).double()

    def fresh(self) -> Net:
        """The network as it was built; at every call a copy of its own."""
        return copy.deepcopy(self._built)

    @cached_property
    def _built(self) -> Net:
        return self.build(self.method)

    @cached_property
    def count(self) -> int:
        """How many images are tried: fewer on a large network, for its weights are read for each of them."""
        return MANY if sum(p.numel() for p in self._built.parameters()) < LARGE else FEW

    def images(self, seed: int = 0) -> Tensor:
        """(B, C, H, W) images."""
        shape = (self.count, self.in_channels, self.image_size, self.image_size)
        return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)

    def labels(self) -> Tensor:
        """(B,) labels."""
        return torch.arange(self.count) % self.classes

    @cached_property
    def net(self) -> Net:
        """The settled network in evaluation mode; checks leave it as it is."""
        return settle(self.fresh(), self.images())

    @cached_property
    def ways(self) -> dict[str, Forced]:
        """The decisions under which forms are compared: its own, all on, the least allowed, random ones.

        What is the same decision is there once; the random ones differ from the network's own and from all on.
        """
        ways: dict[str, Forced] = {"its own decisions": None}
        if self.net.sites:
            ways["all on"] = everything = all_on(self.net, self.count)
            fewest = least(self.net, self.count)
            if any(not torch.equal(d.used, everything[site].used) for site, d in fewest.items()):
                ways["the least allowed"] = fewest
            ways["random decisions"] = self._random()
        return ways

    def _random(self) -> Mapping[str, Decision]:
        generator = torch.Generator().manual_seed(1)
        with torch.no_grad():
            own = self.net(self.images()).trace
        everything = all_on(self.net, self.count)
        found: dict[str, Decision] = {}
        for _ in range(20):  # a site with few units may draw what it decides itself
            drawn = random(self.net, self.count, generator)
            fitting = (s for s in own if _differs(drawn[s], own[s]) and _differs(drawn[s], everything[s]))
            found = {site: drawn[site] for site in fitting} | found
            if len(found) == len(own):
                return found
        raise NotConforming("an op decides the same whatever is wished: its `forced` ignores the wish")

    @cached_property
    def passes(self) -> dict[str, Pass]:
        """One pass for each of the ways."""
        with torch.no_grad(), in_turn():
            return {way: self._pass(forced) for way, forced in self.ways.items()}

    def _pass(self, forced: Forced) -> Pass:
        dense = self.net(self.images(), sparse=False, decisions=forced)
        rows = [slice(i, i + 1) for i in range(self.count)]
        alone = [self._counted(self.images()[row], _rows(forced, row)) for row in rows]
        sparse, ran = self._counted(self.images(), forced)
        return Pass(dense, sparse, ran, [output for output, _ in alone], [executed for _, executed in alone])

    def _counted(self, images: Tensor, forced: Forced) -> tuple[Output, Executed]:
        """The sparse form, and the operators that ran in it."""
        with MacCounter() as counter:
            output = self.net(images, sparse=True, decisions=forced)
        return output, Executed(counter.by_operator, counter.uncounted)


def settle(net: Net, images: Tensor) -> Net:
    """Let the normalisations see images, everything on; then evaluation mode."""
    for layer in net.modules():
        if isinstance(layer, _BatchNorm):
            layer.momentum = None  # the plain mean over batches
    net.train()
    with torch.random.fork_rng([]), torch.no_grad(), in_turn():
        torch.manual_seed(0)  # layers such as dropout draw
        net(images, decisions=all_on(net, len(images)))
    return net.eval()


def equal(a: Tensor, b: Tensor, what: str) -> None:
    """Raise NotConforming where two tensors differ by more than rounding."""
    difference = float((a - b).abs().max() / b.abs().max().clamp_min(1.0))
    if not difference <= TOLERANCE:
        raise NotConforming(f"{what} (by {difference:.2g}; allowed {TOLERANCE:.0e})")


def _rows(forced: Forced, rows: slice) -> Forced:
    return None if forced is None else {site: d.map(lambda t: t[rows]) for site, d in forced.items()}


def _differs(a: Decision, b: Decision) -> bool:
    return not (torch.equal(a.used.to(b.used), b.used) and torch.equal(a.weight.to(b.weight), b.weight))
