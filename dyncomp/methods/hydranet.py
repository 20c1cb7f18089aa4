"""HydraNet: branches for groups of classes, of which a gate runs the best few (Mullapudi et al. 2018, CVPR)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import ClassVar, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dyncomp.core import Backbone, Batches, Decision, Method, Net, Output, ResidualBlock, Routed, Stage, chain
from dyncomp.core.attach import needs_single_maps
from dyncomp.core.gates import pooled
from dyncomp.core.op import Taped
from dyncomp.core.routed import harden
from dyncomp.errors import CannotAttach, InvalidValue
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

    Stage "partition" trains everything with soft weights. Then the mean features of each class are clustered by k-means
    and each branch is given its share of the classes, balanced; stage "gated" teaches the gate the branch of the label,
    beside the cross-entropy, while the weights move from soft ones to those of use, top-k. The sources give neither a
    schedule nor the gate's loss: the stages, their shares, the cross-entropy on the gate and its weight, and the
    gradual change of weights are interpretations.

    Against collapse: the partition is balanced, so the gate's loss asks for every branch equally often.
    """

    examples: ClassVar[tuple[str, ...]] = ('hydranet(branches=3, top=1, after=1, slim=False, gate="linear")',)

    branches: int = option(5, "branches", ge=2)
    top: int = option(2, "branches that an image takes, the best ones", ge=1)
    after: int | None = option(None, "blocks in the stem; None: all but the last stage", ge=0)
    slim: bool = option(True, "branches and gate leave out residual blocks that keep the shape")
    gate: Literal["block", "linear"] = option("block", "a sub-network like a branch, or one linear layer when pooled")
    gate_weight: float = option(0.5, "weight of the gate's loss", ge=0.0)

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
        gate = Gate(self._judge(new(), start, flat), classifier.out_features)
        routed = Routed([self._branch(new(), start, flat) for _ in range(self.branches)], gate, self.top, soft=1.0)
        head = [layers[flat], ("features", Features()), *layers[flat + 1 :]]
        return chain([*layers[:start], ("branches", routed), *head])

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

    def stages(self) -> Sequence[Stage]:
        """See `Method.stages`."""
        return (
            Stage("partition", 0.4, lambda output, labels, progress: self.loss(output, labels)),
            Stage("gated", 0.6, self._gated, prepare=divide_classes, adjust=partial(harden, at_last=SOFT_AT_LAST)),
        )

    def _gated(self, output: Output, labels: Tensor, progress: float) -> Tensor:
        (site,) = output.trace
        branch = output.said[f"{site}.gate"].gather(1, labels[:, None]).squeeze(1)  # (B,)
        return self.loss(output, labels) + self.gate_weight * F.cross_entropy(output.said[site].float(), branch)


class Gate(Taped):
    """Scores the branches, and keeps which branch each class belongs to, a buffer (Y,), for the loss to read.

    In the dense form the classes' branches are said under the gate's site, a row (Y,) for each image.
    """

    def __init__(self, judge: nn.Module, classes: int) -> None:
        super().__init__()
        self.judge = judge
        self.register_buffer("partition", torch.zeros(classes, dtype=torch.long))
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


class Features(Taped):
    """Says the combined features (B, F) on their way to the prediction layer."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, F) -> (B, F)."""
        self.tape.say(self.site, x)
        return x


def divide_classes(net: Net, batches: Batches) -> None:
    """Cluster the classes by their mean features on the training split and give each branch its share of them.

    Features are those that the prediction layer has learnt to read: of all branches, by soft weights.
    """
    (gate,) = (module for module in net.modules() if isinstance(module, Gate))
    (features,) = (module for module in net.modules() if isinstance(module, Features))
    (op,) = net.sites.values()
    sums: Tensor | None = None
    counts = torch.zeros(len(gate.partition), dtype=torch.float64)
    with torch.no_grad():
        for images, labels in batches():
            said = net(images, sparse=False, decisions=_soft(net, images)).said[features.site].double().cpu()  # (B, F)
            sums = said.new_zeros(len(counts), said.shape[1]) if sums is None else sums  # (Y, F)
            sums.index_add_(0, labels.cpu(), said)
            counts += labels.cpu().bincount(minlength=len(counts))
    assert sums is not None  # a training split has images
    means = torch.where(counts[:, None] > 0, sums / counts[:, None].clamp_min(1), sums.sum(0) / counts.sum())
    gate.partition.copy_(balanced_partition(means, op.units))


def _soft(net: Net, images: Tensor) -> dict[str, Decision]:
    """All branches, weighted by the gate's chances."""
    ((site, decision),) = net(images, sparse=False).trace.items()
    return {site: replace(decision, used=torch.ones_like(decision.used), weight=decision.probability)}


def balanced_partition(means: Tensor, groups: int) -> Tensor:
    """The group of each class, (Y,): every group has floor(Y/groups) or ceil(Y/groups) classes of mean features (Y, F).

    k-means gives the centroids; pairs of class and centroid are then taken by distance, the nearest first, as long as
    the class is free and the group has room. With no more classes than groups, each class has its own.
    """
    size, larger = divmod(len(means), groups)  # `larger` groups have one class more
    distances = torch.cdist(means, _centroids(means, groups))  # (Y, groups)
    partition = torch.full((len(means),), -1)
    taken = [0] * groups
    for pair in distances.flatten().argsort(stable=True).tolist():
        label, group = divmod(pair, distances.shape[1])
        room = taken[group] < size or (taken[group] == size and larger > 0)
        if room and partition[label] < 0:
            larger -= taken[group] == size
            taken[group] += 1
            partition[label] = group
    return partition


def _centroids(means: Tensor, groups: int) -> Tensor:
    """Centroids (groups, F), or the points themselves where there are no more of them."""
    if len(means) <= groups:
        return means
    points = np.unique(means.numpy(), axis=0)  # classes without images are all one point
    from sklearn.cluster import KMeans  # slow to import: not needed to be listed

    fitted = KMeans(min(groups, len(points)), n_init=10, random_state=0).fit(points)
    centroids = torch.from_numpy(fitted.cluster_centers_)
    return torch.cat([centroids, means.mean(0).expand(groups - len(centroids), -1)])


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
