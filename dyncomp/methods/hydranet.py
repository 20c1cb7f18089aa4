"""HydraNet: branches for groups of classes, of which a gate runs the best few (Mullapudi et al. 2018, CVPR)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dyncomp.core import Backbone, Batches, Method, Net, Output, ResidualBlock, Source, Stage, chain, pretrained
from dyncomp.core.initial import PLAIN
from dyncomp.core.modes import evaluating
from dyncomp.core.tape import Taped
from dyncomp.errors import CannotAttach, InvalidValue
from dyncomp.methods._partition import balanced_partition
from dyncomp.ops import Routed
from dyncomp.ops.gates import pooled
from dyncomp.ops.placement import needs_single_maps
from dyncomp.ops.routed import harden
from dyncomp.registry import register_method
from dyncomp.spec import option

Layers = list[tuple[str, nn.Module]]

SOFT_AT_LAST = 0.05
"""share of the soft weights that stays, so that a branch which is not chosen still learns"""


@register_method("hydranet", paper="doi:10.1109/CVPR.2018.00843")
@dataclass(frozen=True)
class HydraNet(Method):
    """A stem, branches that are copies of the backbone's last stage, a gate that chooses, a sum that combines.

    Each branch ends in a projection of its features; those of the chosen ones, weighted by the gate, are added up and
    read by one prediction layer. The gate is a sub-network as large as a branch on the stem's output, and scores. The
    paper makes branches narrower than the stage they come from. A backbone's width is fixed, so here `slim` ones are
    shorter: they leave out residual blocks that keep the shape.

    The features of a trained plain backbone, their mean for each class, are clustered by k-means, and each branch is
    given its share of the classes, balanced (section 3.2). Stem, branches and gate begin with that backbone's weights.
    Training teaches the gate the branch of the label, beside the cross-entropy, while the weights move from soft ones
    to those of use, top-k. The sources give neither a schedule nor the gate's loss: that the weights begin as the
    backbone's, the cross-entropy on the gate and its weight, and the gradual change of weights are interpretations. A
    longer pretraining was worse at an equal budget (`pretraining=0.5`: 93.0 % against 93.2 %, Fashion-MNIST,
    cifar_resnet20(width=0.5), 10 epochs, calibration split, one seed).

    Against collapse: the partition is balanced, so the gate's loss asks for every branch equally often.
    """

    examples: ClassVar[tuple[str, ...]] = ('hydranet(branches=3, top=1, after=1, slim=False, gate="linear")',)

    branches: int = option(5, "branches", ge=2)
    top: int = option(2, "branches that an image takes, the best ones", ge=1)
    after: int | None = option(None, "blocks in the stem; None: all but the last stage", ge=0)
    slim: bool = option(True, "branches and gate leave out residual blocks that keep the shape")
    gate: Literal["block", "linear"] = option("block", "a sub-network like a branch, or one linear layer when pooled")
    gate_weight: float = option(0.5, "weight of the gate's loss", ge=0.0)
    pretraining: float = option(0.2, "share of the budget that trains the plain backbone beforehand", gt=0.0, lt=1.0)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.top > self.branches:
            raise InvalidValue(f"hydranet: top={self.top} of {self.branches} branches; give top from 1 to branches")

    def build(self, new: Callable[[], Backbone]) -> nn.Module:
        """Stem, routed branches, prediction layer. Raises CannotAttach where there is no last stage to copy."""
        backbone = new()
        start, flat = self._cuts(backbone)
        layers = backbone.layers()
        classifier = _linear(backbone)
        gate = Gate(self._judge(new(), start, flat), classifier.out_features, self.branches)
        routed = Routed([self._branch(new(), start, flat) for _ in range(self.branches)], gate, self.top, soft=1.0)
        return chain([*layers[:start], ("branches", routed), *layers[flat:]])

    def _cuts(self, backbone: Backbone) -> tuple[int, int]:
        """Among the backbone's layers, where the branches begin, and the one that flattens, before which they end."""
        needs_single_maps(backbone, "hydranet")
        blocks = len(backbone.blocks)
        after = _before_last_stage(backbone) if self.after is None else self.after
        if not after < blocks:
            raise CannotAttach(
                f"hydranet: after={after} of {backbone.name}'s {blocks} blocks leaves none for the branches; "
                f"give after from 0 to {blocks - 1}"
            )
        layers = backbone.layers()
        flat = next((at for at, (_, layer) in enumerate(layers) if isinstance(layer, nn.Flatten)), None)
        if flat is None:
            raise CannotAttach(
                f"hydranet: {backbone.name} has no Flatten layer behind its blocks, so branches have no end; "
                "choose a backbone with one, such as cifar_resnet14"
            )
        return [name for name, _ in layers].index(backbone.blocks[after]), flat

    def _branch(self, backbone: Backbone, start: int, flat: int) -> nn.Module:
        """A copy of the last part, and a projection of its pooled features (B, C, h, w)."""
        part = self._part(backbone, start, flat)
        channels = _convolutions(part)[-1].out_channels
        return chain([*part, ("projection", nn.Conv2d(channels, channels, 1))])

    def _judge(self, backbone: Backbone, start: int, flat: int) -> nn.Module:
        """What scores the branches: (B, C, H, W) -> (B, U)."""
        part = self._part(backbone, start, flat)
        if self.gate == "linear":
            return nn.Sequential(Pooled(), nn.Linear(_convolutions(part)[0].in_channels, self.branches))
        features = _linear(backbone, first=True).in_features
        return chain([*part, ("flatten", nn.Flatten(1)), ("scores", nn.Linear(features, self.branches))])

    def _part(self, backbone: Backbone, start: int, flat: int) -> Layers:
        part = backbone.layers()[start:flat]
        return [part[0], *(layer for layer in part[1:] if not (self.slim and _keeps_shape(layer[1])))]

    def sources(self) -> Mapping[str, Source]:
        """The plain backbone, trained."""
        return pretrained(self.pretraining)

    def inherit(self, net: Net, trained: Mapping[str, Net], batches: Batches) -> None:
        """With the plain backbone's weights, and classes divided among the branches by its features."""
        super().inherit(net, trained, batches)
        if PLAIN in trained and any(isinstance(module, Gate) for module in net.modules()):  # controls have none
            divide_classes(net, trained[PLAIN], batches)

    def stages(self) -> Sequence[Stage]:
        """See `Method.stages`."""
        return (Stage("gated", 1.0, self._gated, adjust=partial(harden, at_last=SOFT_AT_LAST)),)

    def _gated(self, output: Output, labels: Tensor, progress: float) -> Tensor:
        (site,) = output.trace
        branch = output.said[f"{site}.gate"].gather(1, labels[:, None]).squeeze(1)  # (B,)
        return self.loss(output, labels) + self.gate_weight * F.cross_entropy(output.said[site].float(), branch)


class Gate(Taped):
    """Scores the branches, and keeps which branch each class belongs to, a buffer (Y,), for the loss to read.

    Until the classes are divided they are dealt out in turn.

    In the dense form the classes' branches are said under the gate's site, a row (Y,) for each image.
    """

    def __init__(self, judge: nn.Module, classes: int, branches: int) -> None:
        super().__init__()
        self.judge = judge
        self.register_buffer("partition", torch.arange(classes) % branches)
        self.partition: Tensor

    def forward(self, x: Tensor) -> Tensor:
        """Features (B, C, H, W) -> scores (B, U)."""
        self.tape.say(self.site, self.partition.expand(x.shape[0], -1))
        scores: Tensor = self.judge(x)
        return scores


class Pooled(nn.Module):
    """The mean over space."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C)."""
        return pooled(x)


def divide_classes(net: Net, plain: Net, batches: Batches) -> None:
    """Cluster the classes by their mean features on the training split and give each branch its share of them.

    Features are what the trained plain backbone's last linear layer reads.
    """
    (gate,) = (module for module in net.modules() if isinstance(module, Gate))
    (op,) = net.sites.values()
    assert isinstance(plain.model, Backbone)  # the plain method changes nothing
    seen: list[Tensor] = []
    handle = _linear(plain.model).register_forward_pre_hook(lambda layer, given: seen.append(given[0]))
    counts = torch.zeros(len(gate.partition), dtype=torch.float64)
    sums = torch.zeros(len(counts), _linear(plain.model).in_features, dtype=torch.float64)
    try:
        with evaluating(plain):
            for images, labels in batches():
                plain(images, record=False)
                features = seen.pop().double().cpu()  # (B, F)
                sums.index_add_(0, labels.cpu(), features)
                counts += labels.cpu().bincount(minlength=len(counts))
    finally:
        handle.remove()
    means = torch.where(counts[:, None] > 0, sums / counts[:, None].clamp_min(1), sums.sum(0) / counts.sum())
    gate.partition.copy_(balanced_partition(means, op.units))


def _before_last_stage(backbone: Backbone) -> int:
    """How many blocks stand before the last stage, which begins with a strided convolution or behind a pooling."""
    begins = len(backbone.blocks) - 1
    for at, name in enumerate(backbone.blocks):
        layers = list(backbone.part(name).modules())
        if any(isinstance(layer, nn.Conv2d) and layer.stride != (1, 1) for layer in layers):
            begins = at
        elif any(isinstance(layer, nn.MaxPool2d | nn.AvgPool2d) for layer in layers) and at + 1 < len(backbone.blocks):
            begins = at + 1
    return begins


def _keeps_shape(layer: nn.Module) -> bool:
    return isinstance(layer, ResidualBlock) and isinstance(layer.shortcut, nn.Identity)


def _linear(backbone: Backbone, first: bool = False) -> nn.Linear:
    """The last linear layer; or, where several follow the blocks, the first of them."""
    wanted = backbone.part(backbone.classifier)
    for layer in backbone.layers()[-1][1].modules() if first else ():
        if isinstance(layer, nn.Linear):
            return layer
    assert isinstance(wanted, nn.Linear)
    return wanted


def _convolutions(part: Layers) -> list[nn.Conv2d]:
    found = [layer for _, module in part for layer in module.modules() if isinstance(layer, nn.Conv2d)]
    if not found:
        raise CannotAttach("hydranet: the last stage has no convolution, so it is no branch; give an earlier `after`")
    return found
