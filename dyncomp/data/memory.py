"""Splits of small images in memory: batches by tensor operations, without worker processes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, final

import numpy as np
import torch
from torch import Tensor

from dyncomp._images import full_scale, normalised
from dyncomp.data.dataset import Batch, Split, Splits
from dyncomp.errors import InvalidValue

ORDER, CHANGE = 0, 1  # streams of random numbers: what is drawn of one does not move the other
Pair = tuple[Tensor, Tensor]  # images (N, C, H, W) uint8, or float from 0 to 1; labels (N,) int64


@dataclass(frozen=True)
class Augmentation:
    """Random crop after padding by `padding` pixels, and a horizontal flip of half of the images.

    The padding is black, or the train images' mean: a zero after normalisation.
    """

    padding: int = 0
    flip: bool = False
    border: Literal["black", "mean"] = "black"

    def weakened(self, strength: float) -> Augmentation:
        """The same with shifts of that share of the distance, from 0 to 1, in whole pixels."""
        return replace(self, padding=round(self.padding * strength))

    def maps(self, height: int, width: int) -> Tensor:
        """(M, H*W) per shift and flip: which pixel each pixel shows; H*W stands for the padding."""
        shifts = torch.arange(-self.padding, self.padding + 1)
        rows = (shifts[:, None] + torch.arange(height))[:, None, :, None]  # (S, 1, H, 1)
        columns = (shifts[:, None] + torch.arange(width))[None, :, None, :]  # (1, S, 1, W)
        inside = (rows >= 0) & (rows < height) & (columns >= 0) & (columns < width)
        maps = torch.where(inside, rows * width + columns, height * width)  # (S, S, H, W)
        if self.flip:
            maps = torch.cat([maps, maps.flip(-1)])  # (2S, S, H, W)
        return maps.flatten(0, 1).flatten(1)


@final
@dataclass(frozen=True, eq=False)
class ImageSplit(Split):
    """Images (N, C, H, W) in memory, uint8 or float from 0 to 1; `mean` and `std` are (C,)."""

    images: Tensor
    labels: Tensor
    mean: Tensor
    std: Tensor
    augmentation: Augmentation = field(default_factory=Augmentation)

    def batches(
        self, batch_size: int, *, epoch: int | None = None, seed: int = 0, augment: float = 0.0
    ) -> Iterator[Batch]:
        """See `Split.batches`."""
        check_batches(batch_size, epoch, augment)
        order = epoch_order(len(self), seed, epoch)
        augmentation = self.augmentation.weakened(augment)
        change = self._changes(augmentation, seed, epoch) if augment and epoch is not None else None
        for index in torch.split(order[: whole_batches(len(self), batch_size, epoch)], batch_size):
            images = self.images[index]
            if change is not None:
                images = self._moved(augmentation, images, change[index])
            yield Batch(normalised(images, self.mean, self.std), self.labels[index], index)

    def _changes(self, augmentation: Augmentation, seed: int, epoch: int) -> Tensor:
        """(N,) which of the augmentation's maps each image goes through."""
        count = (2 * augmentation.padding + 1) ** 2 * (2 if augmentation.flip else 1)
        return torch.randint(count, (len(self),), generator=generator(seed, epoch, CHANGE))

    def _moved(self, augmentation: Augmentation, images: Tensor, change: Tensor) -> Tensor:
        batch, channels, height, width = images.shape
        border = self._border().expand(batch, channels, 1)
        pixels = torch.cat([images.flatten(2), border], dim=2)  # (B, C, H*W + 1)
        source = augmentation.maps(height, width)[change]  # (B, H*W)
        return pixels.gather(2, source[:, None].expand(-1, channels, -1)).view_as(images)

    def _border(self) -> Tensor:
        """(C, 1) the value of the padding, in the images' own type."""
        value = self.mean * full_scale(self.images) if self.augmentation.border == "mean" else self.mean * 0
        return (value if self.images.is_floating_point() else value.round()).to(self.images.dtype)[:, None]


def check_batches(batch_size: int, epoch: int | None, augment: float) -> None:
    """Refuse what `Split.batches` cannot do."""
    if batch_size < 1:
        raise InvalidValue(f"batch_size={batch_size} is below 1; give the number of images of a batch")
    if not 0 <= augment <= 1:
        raise InvalidValue(f"augment={augment} is no strength; give a number from 0 to 1")
    if augment and epoch is None:
        raise InvalidValue(f"augment={augment} without an epoch; give one, it seeds what happens to each image")


def whole_batches(images: int, batch_size: int, epoch: int | None) -> int:
    """How many of the images an epoch uses: all, or those that fill batches when it trains."""
    if epoch is None or images < batch_size:
        return images
    return images - images % batch_size


def generator(*key: int) -> torch.Generator:
    """Random numbers of their own, seeded by all of `key`."""
    state = np.random.SeedSequence(key).generate_state(1, np.uint64)
    return torch.Generator().manual_seed(int(state[0]) % 2**63)


def epoch_order(images: int, seed: int, epoch: int | None) -> Tensor:
    """(N,) the order of the images in an epoch."""
    if epoch is None:
        return torch.arange(images)
    return torch.randperm(images, generator=generator(seed, epoch, ORDER))


def measure(images: Tensor) -> tuple[Tensor, Tensor]:
    """(C,) mean and (C,) deviation (at least a grey level) of the channels, pixels from 0 to 1."""
    channels = images.transpose(0, 1).flatten(1)  # (C, N*H*W)
    if images.is_floating_point():
        std, mean = torch.std_mean(channels.double(), dim=1, correction=0)
    else:  # by the histogram: exact, and no copy of the data in floating point
        levels = torch.linspace(0, 1, 256, dtype=torch.float64)
        share = torch.stack([channel.bincount(minlength=256) for channel in channels]) / channels.shape[1]
        share = share.double()
        mean = share @ levels
        std = (share * (levels - mean[:, None]).square()).sum(1).sqrt()
    return mean.float(), std.clamp(min=1 / 255).float()


def in_memory(
    train: Pair,
    calibration: Pair,
    test: Pair,
    class_names: Sequence[str],
    augmentation: Augmentation,
    difficulty: Tensor | None = None,
) -> Splits:
    """Splits of images (N, C, H, H), normalised by the train images' own mean and deviation."""
    mean, std = measure(train[0])
    return Splits(
        train=ImageSplit(*train, mean, std, augmentation),
        calibration=ImageSplit(*calibration, mean, std, augmentation),
        test=ImageSplit(*test, mean, std, augmentation),
        classes=len(class_names),
        in_channels=train[0].shape[1],
        image_size=train[0].shape[-1],
        class_names=tuple(class_names),
        mean=tuple(mean.tolist()),
        std=tuple(std.tolist()),
        difficulty=difficulty,
    )
