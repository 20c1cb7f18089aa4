"""BlockDrop's policy networks (Wu et al. 2018, arXiv:1711.08393, section 4.1 and its code)."""

from __future__ import annotations

from collections import OrderedDict

import torch
from torch import Tensor, nn

from dyncomp.core import ResidualBlock
from dyncomp.ops.gates import as_chance, open_bias
from dyncomp.ops.shrink import Shrink

LARGE = 64
"""Side in pixels from which on images count as large."""


class Policy(nn.Module):
    """A residual network on the images, (B, C, H, W) -> the chance that each of K blocks is kept, (B, K).

    Small images: ResNet-8, a 3x3 stem and one basic block each of 16, 32 and 64 channels, 12.24 M MACs at 32 x 32.
    Large ones: ResNet-10, ImageNet's stem and one basic block each of 64, 128, 256 and 512 channels, on the image
    averaged over 2 x 2 pixels, 0.236 G MACs for images of 224 pixels. `width` is a factor on the channels; blocks are
    kept with the chance `start` at first.
    """

    def __init__(self, image_shape: tuple[int, int, int], blocks: int, width: float, start: float) -> None:
        super().__init__()
        large = image_shape[1] >= LARGE
        widths = [max(1, round(channels * width)) for channels in ((64, 128, 256, 512) if large else (16, 32, 64))]
        inputs = [widths[0], *widths[:-1]]
        self.stem = _large_stem(image_shape[0], widths[0]) if large else _stem(image_shape[0], widths[0], 3, 1)
        shapes = zip(inputs, widths, (1, 2, 2, 2), strict=False)
        self.blocks = nn.Sequential(*(_block(i, o, stride, large) for i, o, stride in shapes))
        self.head = nn.Linear(widths[-1], blocks)
        with torch.no_grad():
            self.head.bias.fill_(open_bias(start))

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        features = self.blocks(self.stem(x)).mean(dim=(2, 3))  # (B, widths[-1])
        return as_chance(self.head(features)).sigmoid()


def _stem(inputs: int, outputs: int, kernel: int, stride: int) -> nn.Sequential:
    conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False)
    _he(conv)
    return nn.Sequential(OrderedDict(conv=conv, bn=nn.BatchNorm2d(outputs), relu=nn.ReLU()))


def _large_stem(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(nn.AvgPool2d(2), *_stem(inputs, outputs, 7, 2), nn.MaxPool2d(3, 2, 1))


def _block(inputs: int, outputs: int, stride: int, large: bool) -> ResidualBlock:
    body = nn.Sequential(*_stem(inputs, outputs, 3, stride), *list(_stem(outputs, outputs, 3, 1))[:2])
    return ResidualBlock(body, nn.Identity() if stride == 1 else _shortcut(inputs, outputs, large), nn.ReLU())


def _shortcut(inputs: int, outputs: int, large: bool) -> nn.Module:
    """Half the side: by a convolution, or, as the code has it for small images, by averages and channels of zeros."""
    if large:
        return nn.Sequential(*list(_stem(inputs, outputs, 1, 2))[:2])
    return Shrink(2, outputs - inputs, mean=True)


def _he(conv: nn.Conv2d) -> None:
    nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
