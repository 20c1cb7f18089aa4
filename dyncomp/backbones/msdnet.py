"""MSDNet: dense layers on several scales at once, made for exits (Huang et al. 2018, arXiv:1703.09844)."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import count, islice
from typing import ClassVar, Literal

from torch import nn

from dyncomp.backbones._layers import activated, initialise, widths_around
from dyncomp.backbones._multi_scale import Coarsest, Pyramid, Reduction, Scales, Transition, scales_for
from dyncomp.core.backbone import Backbone, BackboneFamily
from dyncomp.errors import InvalidValue
from dyncomp.registry import register_backbone
from dyncomp.spec import option


@register_backbone("msdnet", paper="arXiv:1703.09844")
@dataclass(frozen=True)
class MSDNet(BackboneFamily):
    """Blocks of dense layers that pass on one map per scale; behind each block the coarsest map can be classified.

    The defaults are the CIFAR network for anytime prediction; its budgeted one is `blocks=5, base=1, step=1,
    steps="linear"`. ImageNet's is `stem="imagenet", factors=(1, 2, 4, 4), bottlenecks=(1, 2, 4, 4), channels=32,
    growth=16, blocks=5` with base and step 4, 6 or 7. It is the paper's section 3 with the network reduction of section
    4: over the layers the finest scales are dropped one by one, and a 1x1 convolution reduces the channels where one
    is. Maps that neither a later layer nor a classifier reads are not made at all; the paper's networks have none, some
    small ones would. Small images have fewer scales: as many as leave 2x2 pixels of the coarsest (interpretations).
    """

    examples: ClassVar[tuple[str, ...]] = ("msdnet(blocks=3, base=2, step=1, channels=8, head=16)",)

    blocks: int = option(7, "groups of layers, each with a classifier behind it", ge=1)
    base: int = option(4, "layers of the first block", ge=1)
    step: int = option(2, "layers of the others, or by how many each has more than the one before", ge=1)
    steps: Literal["even", "linear"] = option("even", "even: step layers each; linear: step + 1, 2 step + 1, ...")
    channels: int = option(16, "of the finest map behind the stem", ge=1)
    growth: int = option(6, "channels that a layer adds to the finest map", ge=2)
    factors: tuple[int, ...] = option((1, 2, 4), "on channels and growth at each scale, the finest first", ge=1)
    bottlenecks: tuple[int, ...] = option(
        (1, 2, 4), "inner channels of a convolution per channel it adds, by scale", ge=1
    )
    prune: bool = option(True, "drop the finest scales over depth")
    reduction: float = option(0.5, "factor on the channels where a scale is dropped", gt=0.0, le=1.0)
    stem: Literal["cifar", "imagenet"] = option("cifar", "first layers: full size, or halved twice")
    head: int | None = option(
        None, "channels in the classifiers; None: the paper's 128, for ImageNet as many as come in", ge=1
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if not len(self.factors) == len(self.bottlenecks) > 0:
            raise InvalidValue(
                f"msdnet: {len(self.factors)} factors and {len(self.bottlenecks)} bottlenecks; give one for each scale"
            )

    def scaled(self, by: Literal["width", "depth"]) -> Sequence[BackboneFamily]:
        """See `BackboneFamily.scaled`."""
        if by == "depth":
            return [replace(self, blocks=blocks) for blocks in range(1, 2 * self.blocks + 1)]
        return [self._times(factor) for factor in widths_around(1.0)]

    def build(self, classes: int, in_channels: int, image_size: int) -> Backbone:
        """See `BackboneFamily.build`."""
        kept = scales_for(image_size if self.stem == "cifar" else -(-image_size // 4), len(self.factors))
        scales = Scales(self.factors[:kept], self.bottlenecks[:kept], self.growth)
        blocks, widths = self._blocks(scales)
        names = [f"blocks.{index}" for index in range(self.blocks)]
        inputs = [width * scales.factors[-1] for width in widths]
        hidden = [self._hidden or channels for channels in inputs]
        layers: OrderedDict[str, nn.Module] = OrderedDict(
            stem=Pyramid(in_channels, [self.channels * factor for factor in scales.factors], self.stem),
            blocks=blocks,  # one map per scale, the coarsest (B, inputs[-1], H, W)
        )
        model = nn.Sequential(layers | head_layers(inputs[-1], hidden[-1], classes))
        initialise(model)
        sizes = zip(names[:-1], inputs, hidden, strict=False)
        heads = {name: partial(own_head, channels, inner, classes) for name, channels, inner in sizes}
        return Backbone(model, names, "classifier", "msdnet", multi_scale=True, heads=heads)

    def depths(self) -> list[int]:
        """How many layers each block has."""
        later = [self.step if self.steps == "even" else self.step * number + 1 for number in range(1, self.blocks)]
        return [self.base, *later]

    @property
    def _hidden(self) -> int | None:
        """Channels in the classifiers, where they are not as many as come in."""
        return self.head or (128 if self.stem == "cifar" else None)

    def _times(self, factor: float) -> MSDNet:
        """The network with all channels times the factor: those behind the stem, the growth and the classifiers'."""
        return replace(
            self,
            channels=max(1, round(self.channels * factor)),
            growth=max(2, round(self.growth * factor)),
            head=max(1, round(self._hidden * factor)) if self._hidden else None,
        )

    def _blocks(self, scales: Scales) -> tuple[nn.Sequential, list[int]]:
        """The blocks, and the width behind each: the channels of a map of factor 1."""
        plan = Reduction(sum(self.depths()), len(scales.factors), self.prune)
        blocks, widths, width, layers = nn.Sequential(), [], self.channels, count(1)
        for depth in self.depths():
            block = nn.Sequential()
            for layer in islice(layers, depth):
                block.append(scales.layer(width, plan.finest(layer - 1), plan.finest(layer)))
                width += self.growth
                if plan.drops(layer):
                    wide, width = width, max(1, int(width * self.reduction))
                    block.append(Transition(wide, width, scales.factors[plan.finest(layer) :]))
            blocks.append(block)
            widths.append(width)
        return blocks, widths


def head_layers(channels: int, hidden: int, classes: int) -> OrderedDict[str, nn.Module]:
    """Two strided 3x3 convolutions on the coarsest map, average pooling, one linear layer: maps -> (B, Y)."""
    return OrderedDict(
        coarsest=Coarsest(),  # (B, channels, H, W)
        conv1=activated(channels, hidden, 3, 2),
        conv2=activated(hidden, hidden, 3, 2),  # (B, hidden, H/4, W/4)
        pool=nn.AdaptiveAvgPool2d(1),
        flatten=nn.Flatten(1),  # (B, hidden)
        classifier=nn.Linear(hidden, classes),
    )


def own_head(channels: int, hidden: int, classes: int) -> nn.Module:
    """A classifier of the coarsest map, with fresh weights: maps -> (B, Y)."""
    head = nn.Sequential(head_layers(channels, hidden, classes))
    initialise(head)
    return head
