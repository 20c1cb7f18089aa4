"""Conditional network: a tree of which each image takes one path (Ioannou et al. 2016, arXiv:1603.01250)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import ClassVar

import torch
from torch import Tensor, nn

from dyncomp.core import Backbone, Method, Output, Stage, Trace, chain
from dyncomp.errors import CannotAttach, InvalidValue
from dyncomp.ops import Routed, categorical_information
from dyncomp.ops.gates import pooled
from dyncomp.ops.placement import needs_single_maps
from dyncomp.ops.routed import harden
from dyncomp.registry import register_method
from dyncomp.spec import option

SOFT_AT_LAST = 0.02
"""share of the soft weights that stays, so that a child which no image of a batch takes still learns"""


@register_method("conditional_network", paper="arXiv:1603.01250")
@dataclass(frozen=True)
class ConditionalNetwork(Method):
    """A tree: the backbone's first blocks are shared, then a router sends each image on to some of several children.

    Explicit routing: each router is a perceptron on pooled features; each child is a copy of the blocks up to the next
    level, the last ones of all that follow, prediction layer included. Soft in training, where all children are
    weighted by the router; single-best (`most=1`) or multi-way in use. A path is as long as the backbone, so routing
    alone adds capacity and saves nothing. Implicit routing saves: below the first router the convolutions are cut into
    `implicit` groups, block-diagonal weights that no router decides about, at 1/`implicit` of their price; layers whose
    channels do not divide stay whole. `implicit=1` leaves that out; `depth=0` leaves out the routers, and what remains
    is the static network with filter groups in its later half. The paper's conditional VGG-11, whose groups grow from
    stage to stage, is the backbone `vgg11(groups="implicit")`.

    A tree has children**depth leaves, and with `most=1` no more routes than that. The paper fixes neither the places
    of routers nor how soft training becomes single-best use. Interpretations: levels stand at every block towards the
    end; the weights move from soft ones to those of use over the middle half of the training.

    Against collapse the paper has nothing but soft weights at first. `balance`, an addition, rewards at first leaves
    that are used alike over a batch, and moves over half of the training to the mutual information of image and leaf.
    """

    examples: ClassVar[tuple[str, ...]] = (
        "conditional_network(depth=1, children=3, most=2, after=(1,), hidden=4, implicit=1)",
        "conditional_network(depth=0, implicit=4)",
    )

    depth: int = option(2, "levels of routers; 0: none, filter groups alone", ge=0)
    children: int = option(4, "children of each router", ge=2)
    most: int = option(1, "children that an image goes on to: 1 is the paper's single-best, more its multi-way", ge=1)
    after: tuple[int, ...] | None = option(
        None, "blocks before each level's routers, None: one per block at the end; with depth=0 before the groups"
    )
    hidden: int | None = option(None, "units of the routers' hidden layer; None: no such layer", ge=1)
    implicit: int = option(2, "groups of the convolutions below the first router (implicit routing)", ge=1)
    balance: float = option(0.0, "weight of the mutual information of image and leaf (not the paper's)", ge=0.0)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.most > self.children:
            raise InvalidValue(
                f"conditional_network: most={self.most} of {self.children} children; give most from 1 to children"
            )
        if self.depth == 0 and self.implicit == 1:
            raise InvalidValue("conditional_network: depth=0 and implicit=1 route nothing; give one of them more")
        levels = max(1, self.depth)  # without routers, where the filter groups begin
        if self.after is not None and (len(self.after) != levels or sorted(set(self.after)) != list(self.after)):
            raise InvalidValue(
                f"conditional_network: after={self.after} for depth={self.depth}; "
                f"give {levels} numbers of blocks, each greater than the one before"
            )

    def build(self, new: Callable[[], Backbone]) -> nn.Module:
        """The trunk, then routers and children. Raises CannotAttach where there are fewer blocks than levels."""
        backbone = new()
        names = [name for name, _ in backbone.layers()]
        levels = [names.index(backbone.blocks[at]) for at in self._places(backbone)]
        if self.depth == 0:
            layers = backbone.layers()
            return chain([*layers[: levels[0]], *self._implicitly(layers[levels[0] :], backbone)])
        cuts = list(pairwise([0, *levels, len(names)]))
        return self._grown(new, cuts, backbone)

    def _places(self, backbone: Backbone) -> Sequence[int]:
        """How many blocks stand before the routers of each level; without routers, before the filter groups."""
        needs_single_maps(backbone, "conditional_network")
        blocks = len(backbone.blocks)
        spread = range(blocks - self.depth, blocks) if self.depth else (blocks // 2,)
        places = spread if self.after is None else self.after
        if not 0 <= min(places) <= max(places) < blocks:
            wrong = f"depth={self.depth}" if self.after is None else f"after={self.after}"
            raise CannotAttach(
                f"conditional_network: {wrong} of {backbone.name}'s {blocks} blocks; "
                f"give depth from 0 to {blocks}, and after from 0 to {blocks - 1}"
            )
        return places

    def _grown(self, new: Callable[[], Backbone], cuts: Sequence[tuple[int, int]], backbone: Backbone) -> nn.Module:
        """The node of the first of `cuts`, its layers taken from `backbone`, with all below it."""
        layers = backbone.layers()[slice(*cuts[0])]
        if cuts[0][0] > 0:
            layers = self._implicitly(layers, backbone)
        if len(cuts) == 1:
            return chain(layers)
        router = Router(_channels(backbone.layers()[cuts[1][0]][1]), self.hidden, self.children)
        children = [self._grown(new, cuts[1:], new()) for _ in range(self.children)]
        return chain([*layers, ("split", Routed(children, router, self.most, soft=1.0))])

    def _implicitly(self, layers: Sequence[tuple[str, nn.Module]], backbone: Backbone) -> list[tuple[str, nn.Module]]:
        """The layers in filter groups."""
        return [(name, _grouped(layer, self.implicit, backbone, name)) for name, layer in layers]

    def stages(self) -> Sequence[Stage]:
        """See `Method.stages`."""
        return (Stage("routed", 1.0, self._routed, adjust=partial(harden, at_last=SOFT_AT_LAST)),)

    def _routed(self, output: Output, labels: Tensor, progress: float) -> Tensor:
        if self.depth == 0 or not self.balance:
            return self.loss(output, labels)
        chances = leaf_chances(output.trace)
        even, sharp = evenness(chances), categorical_information(chances)  # sharp: even, and each image sure
        settled = min(1.0, 2 * progress)
        return self.loss(output, labels) - self.balance * (even + settled * (sharp - even))


class Router(nn.Module):
    """A perceptron on pooled features, with one hidden layer (tanh) or none."""

    def __init__(self, channels: int, hidden: int | None, children: int) -> None:
        super().__init__()
        inner = [] if hidden is None else [nn.Linear(channels, hidden), nn.Tanh()]  # cannot die
        self.layers = nn.Sequential(*inner, nn.Linear(channels if hidden is None else hidden, children))

    def forward(self, x: Tensor) -> Tensor:
        """Features (B, C, H, W) -> scores (B, U)."""
        scores: Tensor = self.layers(pooled(x))
        return scores


def evenness(chances: Tensor) -> Tensor:
    """The entropy in nats of the mean chances (B, U): log(U) where all are used alike, a scalar."""
    mean = chances.mean(dim=0).clamp_min(1e-6)
    return -(mean * mean.log()).sum()


def leaf_chances(trace: Trace) -> Tensor:
    """The chance of each leaf of the tree, (B, leaves): the product of the routers' chances on the way to it."""
    units: dict[tuple[str, int], Tensor] = {}
    for site, decision in trace.items():  # outer routers come first
        parent = trace.parents[site]
        here = decision.probability
        if parent is not None:
            here = here * units.pop(parent)[:, None]  # (B, U)
        units |= {(site, unit): here[:, unit] for unit in range(here.shape[1])}
    return torch.stack(list(units.values()), dim=1)


def _grouped(layer: nn.Module, groups: int, backbone: Backbone, name: str) -> nn.Module:
    """The layer with its convolutions cut into groups, where channels allow."""
    if groups == 1 or name.split(".")[0] == backbone.classifier.split(".")[0]:
        return layer
    if isinstance(layer, nn.Conv2d):
        return _block_diagonal(layer, groups)
    for inner, part in list(layer.named_modules()):
        if isinstance(part, nn.Conv2d):
            layer.set_submodule(inner, _block_diagonal(part, groups))
    return layer


def _block_diagonal(conv: nn.Conv2d, groups: int) -> nn.Conv2d:
    """The convolution in groups. Its kernels begin as the whole one's diagonal blocks, at the same output variance."""
    if conv.groups > 1 or conv.in_channels % groups or conv.out_channels % groups:
        return conv
    blocks = [part.chunk(groups, dim=1)[at] for at, part in enumerate(conv.weight.detach().chunk(groups))]
    conv.weight = nn.Parameter(torch.cat(blocks) * groups**0.5)  # (outputs, inputs / groups, k, k)
    conv.groups = groups
    return conv


def _channels(block: nn.Module) -> int:
    """Channels of the features that enter the block."""
    for layer in block.modules():
        if isinstance(layer, nn.Conv2d):
            return layer.in_channels
    raise CannotAttach("conditional_network: a block without convolutions has no router before it; give other `after`")
