"""What a data set is: three splits of images that a run may use for three different things."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, NamedTuple

from torch import Tensor

from dyncomp.spec import Configurable


class Batch(NamedTuple):
    """Some images of a split.

    images: (B, C, H, W) float32, normalised; labels: (B,) int64; index: (B,) int64, the images'
    positions in their split.
    """

    images: Tensor
    labels: Tensor
    index: Tensor  # type: ignore[assignment]  # hides tuple.index, which nobody asks of a batch


class Split(ABC):
    """A fixed, ordered set of images. `labels` is (N,) int64, in the split's order."""

    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    @abstractmethod
    def batches(
        self, batch_size: int, *, epoch: int | None = None, seed: int = 0, augment: float = 0.0
    ) -> Iterator[Batch]:
        """The split's images in batches.

        Without `epoch`: in order, every image once. With it: shuffled by (seed, epoch) and nothing else, so that every
        method sees the same images in the same order whatever it draws itself; the last batch is dropped when it is
        smaller than the others and not the only one, because batch norm cannot learn from a handful of images. With
        `augment` above 0, up to 1, each image is flipped, and shifted by up to that share of the whole distance, by
        (seed, epoch, its index), whatever the batch size; it needs an epoch. Images that are read from files change at
        full strength. The global random state is neither read nor changed.
        """


@dataclass(frozen=True)
class Streams:
    """How the test images of a data set of frames belong together.

    Each `length` consecutive ones are a stream: frames of one thing. `kinds` (N,) int64, an index into `kind_names`,
    says what is wrong with each frame (the first name is nothing), `severity` (N,) from 0 to 1 how much.
    """

    length: int
    kinds: Tensor
    severity: Tensor
    kind_names: tuple[str, ...]


@dataclass(frozen=True)
class Splits:
    """A data set, loaded.

    Weights are learnt on `train`; thresholds are chosen and training is stopped by `calibration`;
    `test` is only reported on. No image is in two of them. `mean` and `std` (one value per channel,
    pixels from 0 to 1) normalise the images and were measured on `train` alone, unless the data set
    says otherwise. `difficulty` (N,), of the test images in order, from 0 to 1, exists only where
    it is known by construction, and `streams` only where the test images are frames. `shorter_side` is what test
    images were resized to before their middle was cut out, None where they have had their size. `notes` say, a line
    each, what was left out.
    """

    train: Split
    calibration: Split
    test: Split
    classes: int
    in_channels: int
    image_size: int
    class_names: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    difficulty: Tensor | None = None
    streams: Streams | None = None
    shorter_side: int | None = None
    notes: tuple[str, ...] = ()


class Dataset(Configurable, ABC):
    """Base of every data set: a frozen dataclass whose fields are its options.

    The class says what it is usually trained with: the backbone, and the epochs of the budgets
    `quick` and `standard`.
    """

    default_backbone: ClassVar[str]
    quick_epochs: ClassVar[int]
    standard_epochs: ClassVar[int]

    @abstractmethod
    def load(self, folders: Sequence[Path], seed: int) -> Splits:
        """The three splits, looked for in `folders` in order; downloads go to the last, the cache.

        Which images are calibration and test images never depends on `seed`, the run's: runs with
        different seeds are compared on the same images. `seed` draws only what may differ, such as
        the subset that `limit` keeps.

        Raises:
            DataNotFound: the files are nowhere, or damaged.
            InvalidValue: an option that does not fit the data.
        """
