"""Streams of frames: every image of another data set, seen again and again by a camera that does not always succeed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor

from dyncomp._images import full_scale
from dyncomp.data.dataset import Dataset, Split, Splits, Streams
from dyncomp.data.degrade import CLEAN, KINDS, degrade, jitter
from dyncomp.data.memory import ImageSplit, Pair, generator, in_memory
from dyncomp.data.splitting import SPLIT_SEED, subset
from dyncomp.errors import InvalidValue
from dyncomp.registry import DATASETS, register_dataset
from dyncomp.spec import option

TRAIN, CALIBRATION, TEST = 10, 11, 12  # streams of random numbers
CHUNK = 4096  # frames that are made at a time


@register_dataset("frames")
@dataclass(frozen=True)
class Frames(Dataset):
    """Frames of a data set's images, some of them blurred, noisy, dark or occluded; by default of `digits`.

    A frame is its image, moved by a pixel or so and lit otherwise; with the chance `bad` it has one flaw, its kind and
    severity drawn evenly. Test and calibration images become streams of `length` frames each, which lie one after
    the other in their split and are the same for every seed; train images become `train_copies` frames each, drawn by
    the run's seed and then moved and flipped in every epoch as the source does it. The splits of images are the
    source's: no image lends its frames to two of them (small ones that are all covered may look alike). The flaws are
    this project's own construction, not a published benchmark; their sizes are in `dyncomp/data/degrade.py`.
    `difficulty` is the severity.
    """

    # of the default source; another source brings its own
    default_backbone: ClassVar[str] = "cifar_resnet14"
    quick_epochs: ClassVar[int] = 30
    standard_epochs: ClassVar[int] = 60

    source: str = option("digits", "the data set in memory whose images are seen, with its options")
    length: int = option(8, "frames of a stream", ge=1, le=256)
    bad: float = option(0.5, "chance that a frame has a flaw", ge=0.0, le=1.0)
    mildest: float = option(0.5, "least severity of a flaw", gt=0.0, le=1.0)
    worst: float = option(1.0, "greatest severity of a flaw", gt=0.0, le=1.0)
    streams: int = option(1000, "test streams at most, and calibration streams; classes in proportion", ge=1)
    train_copies: int = option(2, "frames of each train image", ge=1, le=16)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.mildest > self.worst:
            raise InvalidValue(f"frames: mildest={self.mildest} is above worst={self.worst}; give at most that")
        source = self._source()
        for budget in ("quick_epochs", "standard_epochs"):
            epochs = -(-getattr(source, budget) // self.train_copies)  # as many steps as the source's own
            object.__setattr__(self, budget, epochs)
        object.__setattr__(self, "default_backbone", source.default_backbone)

    def load(self, folders: Sequence[Path], seed: int) -> Splits:
        """See `Dataset.load`."""
        loaded = self._source().load(folders, seed)
        train, calibration, test = (self._images(part) for part in (loaded.train, loaded.calibration, loaded.test))
        frames, labels, _, _ = self._filmed((train.images, train.labels), self.train_copies, (TRAIN, seed))
        tuning, _ = self._streams(calibration, CALIBRATION)
        testing, streams = self._streams(test, TEST)
        augmentation, names = train.augmentation, loaded.class_names
        splits = in_memory((frames, labels), tuning, testing, names, augmentation, streams.severity)
        return replace(splits, streams=streams)

    def _source(self) -> Dataset:
        source: Dataset = DATASETS.create(self.source)
        if isinstance(source, Frames):
            raise InvalidValue(f"frames: source={self.source!r} has frames already; give images, such as fashion_mnist")
        return source

    def _images(self, split: Split) -> ImageSplit:
        if not isinstance(split, ImageSplit):
            raise InvalidValue(
                f"frames: source={self.source!r} keeps its images in files; give one that fits into memory, such as "
                "digits, fashion_mnist or cifar10"
            )
        return split

    def _streams(self, split: ImageSplit, key: int) -> tuple[Pair, Streams]:
        """`length` frames of each image one after the other, of at most `streams` images."""
        pair = subset("frames", split.images, split.labels, min(self.streams, len(split)), SPLIT_SEED)
        frames, labels, kinds, severity = self._filmed(pair, self.length, (key, SPLIT_SEED))
        return (frames, labels), Streams(self.length, kinds, severity, KINDS)

    def _filmed(self, pair: Pair, copies: int, key: tuple[int, int]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Frames (N * copies, C, H, W) uint8 of images (N, C, H, W), their labels, kinds and severities."""
        images, labels = pair
        whose = torch.arange(len(images)).repeat_interleave(copies)
        random = generator(*key, 0)
        flaw = torch.randint(CLEAN + 1, len(KINDS), whose.shape, generator=random)
        kinds = torch.where(torch.rand(whose.shape, generator=random) < self.bad, flaw, CLEAN)
        drawn = self.mildest + (self.worst - self.mildest) * torch.rand(whose.shape, generator=random)
        severity = torch.where(kinds == CLEAN, 0.0, drawn)
        frames = torch.empty(len(whose), *images.shape[1:], dtype=torch.uint8)
        for number, members in enumerate(torch.split(torch.arange(len(whose)), CHUNK)):
            random = generator(*key, 1, number)
            seen = jitter(images[whose[members]].float() / full_scale(images), random)
            seen = degrade(seen, kinds[members], severity[members], random)
            frames[members] = seen.mul(255).round().to(torch.uint8)
        return frames, labels[whose], kinds, severity
