"""The first convolution of torchvision's networks, for other images than theirs."""

from __future__ import annotations

from typing import Literal

from torch import nn

Stem = Literal["imagenet", "cifar"]
STEM_HELP = "first layers: torchvision's own, or without halvings, for small images"


def stem_convolution(conv: nn.Conv2d, in_channels: int, stem: Stem) -> nn.Conv2d:
    """`conv` where it fits, else a fresh one: for `in_channels`; 3x3, stride 1 if "cifar"."""
    if stem == "imagenet" and in_channels == conv.in_channels:
        return conv
    fresh = (
        nn.Conv2d(in_channels, conv.out_channels, 3, 1, 1, bias=False)
        if stem == "cifar"
        else nn.Conv2d(
            in_channels,
            conv.out_channels,
            conv.kernel_size,  # type: ignore[arg-type]
            conv.stride,  # type: ignore[arg-type]
            conv.padding,  # type: ignore[arg-type]
            bias=False,
        )
    )
    nn.init.kaiming_normal_(fresh.weight, mode="fan_out", nonlinearity="relu")  # as torchvision
    return fresh
