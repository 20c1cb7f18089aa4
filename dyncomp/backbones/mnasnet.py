"""MnasNet-A1: found by a search that measured latency (Tan et al. 2019, arXiv:1807.11626, figure 7)."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

from torch import Tensor, nn

from dyncomp.backbones._layers import (
    activated,
    convolution,
    finer,
    halvings_for,
    initialise,
    keep_last,
    scaled,
    stem,
    widths_around,
)
from dyncomp.core.backbone import Backbone, BackboneFamily, ResidualBlock
from dyncomp.registry import register_backbone
from dyncomp.spec import option


@dataclass(frozen=True)
class Stage:
    """One line of figure 7: `blocks` blocks, the first of which has the stride; expansion 1 is its SepConv."""

    blocks: int
    channels: int
    kernel: int
    stride: int
    expansion: int
    hidden: tuple[int, ...] = ()
    """Of squeeze-and-excitation in each block: a quarter of the channels that enter; empty where it has none."""


STEM = (32, 2)  # channels at width 1.0, stride
HEAD = 1280  # channels before pooling; the figure stops at 320, and its 312 M multiply-adds need this layer
STAGES = (
    Stage(1, 16, 3, 1, 1),
    Stage(2, 24, 3, 2, 6),
    Stage(3, 40, 5, 2, 3, (6, 10, 10)),
    Stage(4, 80, 3, 2, 6),
    Stage(2, 112, 3, 1, 6, (20, 28)),
    Stage(3, 160, 5, 2, 6, (28, 40, 40)),
    Stage(1, 320, 3, 1, 6),
)


@register_backbone("mnasnet_a1", paper="arXiv:1807.11626")
@dataclass(frozen=True)
class MnasNetA1(BackboneFamily):
    """16 blocks, most of them inverted residuals, eight with squeeze-and-excitation; made for 224 pixels.

    Nine of the blocks have a shortcut; the others change the shape and are plain chains. A last 1x1 convolution to 1280
    channels, which the figure leaves out, is what its published multiply-adds need. Of the five halvings as many are
    kept as leave a map of at least 2x2, as in mobilenet_v1.
    """

    examples: ClassVar[tuple[str, ...]] = ("mnasnet_a1(width=0.25)",)

    width: float = option(1.0, "factor on all channels", gt=0.0)
    multiple: int = option(8, "of which all channels are multiples, at least one", ge=1)
    dropout: float = option(0.2, "share of features dropped before the classifier in training", ge=0.0, lt=1.0)
    halvings: int | None = option(
        None, "how many of the five strides to keep; None: as the image size allows", ge=0, le=5
    )

    def scaled(self, by: Literal["width", "depth"]) -> Sequence[BackboneFamily]:
        """See `BackboneFamily.scaled`."""
        if by == "depth":
            return ()
        multiple = finer(self.multiple, self.width)
        return [replace(self, width=width, multiple=multiple) for width in widths_around(self.width)]

    def build(self, classes: int, in_channels: int, image_size: int) -> Backbone:
        """See `BackboneFamily.build`."""
        kept = halvings_for(image_size) if self.halvings is None else self.halvings
        first, *strides = keep_last([STEM[1], *(stage.stride for stage in STAGES)], kept)
        inputs, *channels, features = (
            scaled(wide, self.width, self.multiple) for wide in (STEM[0], *(stage.channels for stage in STAGES), HEAD)
        )
        blocks = nn.Sequential(*chain(inputs, channels, strides))
        model = nn.Sequential(
            OrderedDict(
                stem=stem(in_channels, inputs, first),
                blocks=blocks,
                head=activated(channels[-1], features, kernel=1),
                pool=nn.AdaptiveAvgPool2d(1),
                flatten=nn.Flatten(1),  # (B, features)
                dropout=nn.Dropout(self.dropout),
                classifier=nn.Linear(features, classes),  # (B, Y)
            )
        )
        initialise(model)
        return Backbone(model, [f"blocks.{index}" for index in range(len(blocks))], "classifier", "mnasnet_a1")


def chain(inputs: int, channels: list[int], strides: list[int]) -> Iterator[nn.Module]:
    """The blocks of all stages, a shortcut around all but the first of each stage."""
    for stage, outputs, first in zip(STAGES, channels, strides, strict=True):
        for index in range(stage.blocks):
            stride = first if index == 0 else 1
            hidden = stage.hidden[index] if stage.hidden else 0
            body = inverted_residual(inputs, outputs, (stage.kernel, stride), stage.expansion, hidden)
            # not where a small width or image happens to keep the shape
            yield ResidualBlock(body, nn.Identity(), nn.Identity()) if index > 0 else body
            inputs = outputs


def inverted_residual(
    inputs: int, outputs: int, depthwise: tuple[int, int], expansion: int, hidden: int
) -> nn.Sequential:
    """[1x1 to more channels], depthwise (kernel, stride), [attention], 1x1 to `outputs`: the last without activation.

    (B, inputs, H, W) -> (B, outputs, H/stride, W/stride).
    """
    inner = inputs * expansion
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    if expansion > 1:
        layers |= {"expand": convolution(inputs, inner, 1), "bn1": nn.BatchNorm2d(inner)}
        layers["relu1"] = nn.ReLU(inplace=True)
    layers |= {"depthwise": convolution(inner, inner, *depthwise, groups=inner), "bn2": nn.BatchNorm2d(inner)}
    layers["relu2"] = nn.ReLU(inplace=True)
    if hidden:
        layers["attention"] = SqueezeExcitation(inner, hidden)
    layers |= {"project": convolution(inner, outputs, 1), "bn3": nn.BatchNorm2d(outputs)}
    return nn.Sequential(layers)


class SqueezeExcitation(nn.Module):
    """Scales each channel by a number from 0 to 1 that the whole map decides (Hu et al. 2018, arXiv:1709.01507).

    MnasNet's figure says only 0.25: of the channels that enter the block, not of the expanded ones, for its published
    3.9 M parameters leave no room for those. A narrow network keeps the hidden units, few as they are (an
    interpretation): two of them soon are dead for all images.
    """

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.scale = nn.Sequential(
            OrderedDict(
                pool=nn.AdaptiveAvgPool2d(1),  # (B, C, 1, 1)
                reduce=nn.Conv2d(channels, hidden, 1),
                relu=nn.ReLU(inplace=True),
                expand=nn.Conv2d(hidden, channels, 1),
                sigmoid=nn.Sigmoid(),
            )
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W)."""
        y: Tensor = x * self.scale(x)
        return y
