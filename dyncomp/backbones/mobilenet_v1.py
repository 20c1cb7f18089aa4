"""MobileNet: a chain of separable convolutions (Howard et al. 2017, arXiv:1704.04861, table 1)."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

from torch import nn

from dyncomp.backbones._layers import classify, convolution, halvings_for, keep_last, scaled, stem, widths_around
from dyncomp.core.backbone import Backbone, BackboneFamily
from dyncomp.registry import register_backbone
from dyncomp.spec import option

STEM = (32, 2)  # channels at width 1.0, stride
BLOCKS = (
    (64, 1),
    (128, 2),
    (128, 1),
    (256, 2),
    (256, 1),
    (512, 2),
    *[(512, 1)] * 5,
    (1024, 2),
    (1024, 1),
)


@register_backbone("mobilenet_v1", paper="arXiv:1704.04861")
@dataclass(frozen=True)
class MobileNetV1(BackboneFamily):
    """13 depthwise separable blocks without shortcuts, made for 224 pixels.

    The paper's five halvings would leave a single pixel of a small image. As many are kept, counted
    from the last, as leave a map of at least 2x2: all five from 33 pixels on (the paper's network),
    four at 17 to 32 pixels, two at 8; the other strides become 1.
    """

    examples: ClassVar[tuple[str, ...]] = ("mobilenet_v1(width=0.25)",)

    width: float = option(1.0, "factor on all channels, rounded to multiples of 8", gt=0.0)
    halvings: int | None = option(
        None, "how many of the five strides to keep; None: as the image size allows", ge=0, le=5
    )

    def scaled(self, by: Literal["width", "depth"]) -> Sequence[BackboneFamily]:
        """See `BackboneFamily.scaled`."""
        return [replace(self, width=width) for width in widths_around(self.width)] if by == "width" else ()

    def build(self, classes: int, in_channels: int, image_size: int) -> Backbone:
        """See `BackboneFamily.build`."""
        kept = halvings_for(image_size) if self.halvings is None else self.halvings
        strides = keep_last([stride for _, stride in (STEM, *BLOCKS)], kept)
        channels = [scaled(channels, self.width) for channels, _ in (STEM, *BLOCKS)]
        blocks = nn.Sequential(*map(separable_block, channels, channels[1:], strides[1:]))
        model = classify(stem(in_channels, channels[0], strides[0]), ("blocks", blocks), channels[-1], classes)
        names = [f"blocks.{index}" for index in range(len(BLOCKS))]
        return Backbone(model, names, "classifier", "mobilenet_v1")


def separable_block(inputs: int, outputs: int, stride: int) -> nn.Sequential:
    """Depthwise 3x3, pointwise 1x1: (B, inputs, H, W) -> (B, outputs, H/stride, W/stride)."""
    return nn.Sequential(
        OrderedDict(
            depthwise=convolution(inputs, inputs, 3, stride, groups=inputs),
            bn1=nn.BatchNorm2d(inputs),
            relu1=nn.ReLU(inplace=True),
            pointwise=convolution(inputs, outputs, 1),
            bn2=nn.BatchNorm2d(outputs),
            relu2=nn.ReLU(inplace=True),
        )
    )
