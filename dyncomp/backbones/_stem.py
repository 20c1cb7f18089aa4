"""The first convolution of torchvision's networks, for other images than theirs."""

from __future__ import annotations

from typing import Literal

from torch import nn


def stem_convolution(conv: nn.Conv2d, in_channels: int, stem: Literal["imagenet", "cifar"]) -> nn.Conv2d:
    """`conv` where it fits, else a fresh one: for `in_channels`; 3x3, stride 1 if "cifar"."""
    if stem == "imagenet" and in_channels == conv.in_channels:
        return conv
    shape = (conv.kernel_size[0], conv.stride[0], int(conv.padding[0]))
    kernel, stride, padding = (3, 1, 1) if stem == "cifar" else shape
    fresh = nn.Conv2d(in_channels, conv.out_channels, kernel, stride, padding, bias=False)
    nn.init.kaiming_normal_(fresh.weight, mode="fan_out", nonlinearity="relu")  # as torchvision
    return fresh
