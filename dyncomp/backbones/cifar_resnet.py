"""Residual networks for small images (He et al. 2016, arXiv:1512.03385, section 4.2)."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

from torch import nn

from dyncomp.backbones._layers import classify, convolution, stem
from dyncomp.core.backbone import Backbone, BackboneFamily, ResidualBlock
from dyncomp.errors import InvalidValue
from dyncomp.ops.shrink import Shrink
from dyncomp.registry import register_backbone
from dyncomp.spec import option

Shortcut = Literal["conv", "pad"]


@register_backbone("cifar_resnet{depth}", paper="arXiv:1512.03385")
@dataclass(frozen=True)
class CifarResNet(BackboneFamily):
    """ResNet of 6n+2 layers for small images: 3x3 stem, three stages of n basic blocks.

    Works on any image size; the stages see the full, the halved and the quartered side.
    """

    examples: ClassVar[tuple[str, ...]] = ("cifar_resnet8", "cifar_resnet14")

    depth: int = option(14, "layers, 6n+2: 8, 14, 20, 26, 32, 38, ...", ge=8)
    width: float = option(1.0, "factor on the 16, 32 and 64 channels of the stages", gt=0.0)
    shortcut: Shortcut = option("conv", "where the shape changes: 1x1 convolution (He's option B) or zero padding (A)")

    def __post_init__(self) -> None:
        super().__post_init__()
        blocks_per_stage(self.depth)  # a wrong depth fails with the spec, not in the middle of a run

    def scaled(self, by: Literal["width", "depth"]) -> Sequence[BackboneFamily]:
        """See `BackboneFamily.scaled`."""
        if by == "depth":
            return [replace(self, depth=depth) for depth in range(8, 3 * self.depth, 6)]
        narrowest = round(16 * self.width)
        return [replace(self, width=channels / 16) for channels in range(1, 2 * narrowest + 1)]

    def build(self, classes: int, in_channels: int, image_size: int) -> Backbone:
        """See `BackboneFamily.build`."""
        blocks = blocks_per_stage(self.depth)
        widths = [max(1, round(16 * self.width)) * factor for factor in (1, 2, 4)]
        stages = nn.Sequential(
            stage(widths[0], widths[0], 1, blocks, self.shortcut),
            stage(widths[0], widths[1], 2, blocks, self.shortcut),
            stage(widths[1], widths[2], 2, blocks, self.shortcut),
        )
        model = classify(stem(in_channels, widths[0]), ("stages", stages), widths[2], classes)
        names = [f"stages.{s}.{b}" for s in range(3) for b in range(blocks)]
        return Backbone(model, names, "classifier", f"cifar_resnet{self.depth}")


def blocks_per_stage(depth: int) -> int:
    """n of depth = 6n+2; InvalidValue names the nearest depths when there is none."""
    blocks, left = divmod(depth - 2, 6)
    if left or blocks < 1:
        below = 6 * max(1, blocks) + 2
        raise InvalidValue(
            f"cifar_resnet{depth}: the depth must be 6n+2; give cifar_resnet{below} or cifar_resnet{below + 6}"
        )
    return blocks


def stage(inputs: int, outputs: int, stride: int, blocks: int, shortcut: Shortcut) -> nn.Sequential:
    """`blocks` basic blocks, the first of which changes the shape.

    (B, inputs, H, W) -> (B, outputs, H/stride, W/stride).
    """

    def chain() -> Iterator[nn.Module]:
        yield basic_block(inputs, outputs, stride, shortcut)
        for _ in range(blocks - 1):
            yield basic_block(outputs, outputs, 1, shortcut)

    return nn.Sequential(*chain())


def basic_block(inputs: int, outputs: int, stride: int, shortcut: Shortcut) -> ResidualBlock:
    """Two 3x3 convolutions beside a shortcut; the stride is in the first."""
    body = nn.Sequential(
        OrderedDict(
            conv1=convolution(inputs, outputs, 3, stride),
            bn1=nn.BatchNorm2d(outputs),
            relu=nn.ReLU(inplace=True),
            conv2=convolution(outputs, outputs, 3),
            bn2=nn.BatchNorm2d(outputs),
        )
    )
    # not in place: a skipped body may leave the block's own input as the summand
    return ResidualBlock(body, shortcut_of(inputs, outputs, stride, shortcut), nn.ReLU())


def shortcut_of(inputs: int, outputs: int, stride: int, kind: Shortcut) -> nn.Module:
    """The identity where the shape stays, else what `kind` says."""
    if stride == 1 and inputs == outputs:
        return nn.Identity()
    if kind == "pad":
        return Shrink(stride, outputs - inputs)
    return nn.Sequential(OrderedDict(conv=convolution(inputs, outputs, 1, stride), bn=nn.BatchNorm2d(outputs)))
