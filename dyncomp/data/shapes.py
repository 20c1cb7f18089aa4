"""Generated images whose difficulty is known because it was chosen.

An image is a background with noise, a shape, and thin strokes across both. Three factors, each
uniform in [0, 1] and independent of the class and of each other, make it harder:

* clutter: `round(8 * clutter)` strokes;
* faintness: the shape is lighter than the background by `0.42 - 0.32 * faintness` of full scale;
* smallness: the shape's circumradius is `0.40 - 0.20 * smallness` of the image's side.

`difficulty = (clutter + faintness + smallness) / 3`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

import torch
from torch import Tensor

from dyncomp.data.dataset import Dataset, Splits
from dyncomp.data.memory import Augmentation, generator, in_memory
from dyncomp.data.outlines import OUTLINES, segment
from dyncomp.registry import register_dataset
from dyncomp.spec import option

CALIBRATION, TEST = 1_000, 2_000
STROKES = 8
STROKE_CONTRAST, HALF_WIDTH = 0.2, 0.02  # of full scale, of the image's side
NOISE = 0.05  # standard deviation, of full scale
CHUNK = 250  # images: their intermediate results fit in the cache


@register_dataset("shapes")
@dataclass(frozen=True)
class Shapes(Dataset):
    """Generated shapes in 10 classes, with a known difficulty: clutter, contrast, scale.

    1,000 calibration and 2,000 test images, in equal classes; all images are the same for every
    seed. `Splits.difficulty` is the test images' (see the head of this file). Augmentation: a flip.
    """

    default_backbone: ClassVar[str] = "cifar_resnet14"
    quick_epochs: ClassVar[int] = 6
    standard_epochs: ClassVar[int] = 60

    images: int = option(4_000, "train images to generate", ge=10, le=1_000_000)
    size: int = option(32, "side in pixels of an image", ge=16, le=256)
    channels: Literal[1, 3] = option(1, "1 for grey images, 3 for coloured ones")

    def load(self, folders: Sequence[Path], seed: int) -> Splits:
        """See `Dataset.load`; looks into no folder."""
        parts = [
            generate(count, self.size, self.channels, stream)
            for stream, count in enumerate((self.images, CALIBRATION, TEST))
        ]
        train, calibration, test = ((part[0], part[1]) for part in parts)
        return in_memory(train, calibration, test, list(OUTLINES), Augmentation(flip=True), parts[2][2])


def generate(count: int, size: int, channels: int, stream: int) -> tuple[Tensor, Tensor, Tensor]:
    """Images (N, C, size, size) uint8, labels (N,) in turn, and difficulty (N,)."""
    labels = torch.arange(count) % len(OUTLINES)
    factors = torch.rand(count, 3, generator=generator(stream, 0))
    images = [
        _drawn(members, factor, size, channels, generator(stream, 1, number))
        for number, (members, factor) in enumerate(
            zip(torch.split(labels, CHUNK), torch.split(factors, CHUNK), strict=True)
        )
    ]
    return torch.cat(images), labels, factors.mean(1)


def _drawn(labels: Tensor, factors: Tensor, size: int, channels: int, random: torch.Generator) -> Tensor:
    """(N, C, size, size) uint8."""
    clutter, faintness, smallness = factors.unbind(1)
    background = 0.4 + 0.2 * torch.rand(len(labels), channels, 1, 1, generator=random)
    contrast = 0.42 - 0.32 * faintness
    shape = _shapes(labels, (0.40 - 0.20 * smallness) * size, size, random)
    strokes = _strokes((clutter * STROKES).round(), size, random)
    tint = 0.7 + 0.6 * torch.rand(len(labels), channels, 1, 1, generator=random)
    tint /= tint.mean(1, keepdim=True)  # colours the contrast without changing its mean
    noise = torch.randn(len(labels), channels, size, size, generator=random)
    drawing = contrast[:, None, None] * shape + STROKE_CONTRAST * strokes  # (N, size, size)
    image = background + tint * drawing[:, None] + NOISE * noise  # (N, C, size, size)
    return image.clamp(0, 1).mul(255).round().to(torch.uint8)


def _shapes(labels: Tensor, radius: Tensor, size: int, random: torch.Generator) -> Tensor:
    """(N, size, size) how much of each pixel the shape covers; it lies anywhere inside the image."""
    count = len(labels)
    centre = radius + (size - 2 * radius) * torch.rand(2, count, generator=random)  # (2, N)
    angle = 2 * math.pi * torch.rand(count, generator=random)
    x, y = (axis / radius[:, None, None] for axis in _turned(centre, angle, size))
    distance = torch.empty(count, size, size)
    for label, outline in enumerate(OUTLINES.values()):
        members = labels == label
        distance[members] = outline(x[members], y[members])
    return (0.5 - distance * radius[:, None, None]).clamp(0, 1)


def _strokes(numbers: Tensor, size: int, random: torch.Generator) -> Tensor:
    """(N, size, size) the sum of each image's strokes, each 1 or -1 along its line."""
    count = len(numbers)
    image = torch.zeros(count, size, size)
    for number in range(STROKES):
        centre = size * torch.rand(2, count, generator=random)
        angle = math.pi * torch.rand(count, generator=random)
        half_length = size * (0.08 + 0.14 * torch.rand(count, generator=random))
        sign = _signs(count, random)
        drawn = (numbers > number).nonzero().flatten()
        x, y = _turned(centre[:, drawn], angle[drawn], size)
        distance = segment(x, y, half_length[drawn, None, None])
        image[drawn] += (0.5 + HALF_WIDTH * size - distance).clamp(0, 1) * sign[drawn, None, None]
    return image


def _turned(centre: Tensor, angle: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """x and y (N, size, size) of the pixels' centres in a frame with that origin (2, N) and angle."""
    pixels = torch.arange(size) + 0.5
    dx, dy = (pixels - origin[:, None] for origin in centre)  # (N, size)
    dx, dy = dx[:, None, :], dy[:, :, None]  # (N, 1, size), (N, size, 1)
    cos, sin = angle.cos()[:, None, None], angle.sin()[:, None, None]
    return cos * dx + sin * dy, cos * dy - sin * dx


def _signs(count: int, random: torch.Generator) -> Tensor:
    return 1.0 - 2.0 * torch.randint(2, (count,), generator=random)
