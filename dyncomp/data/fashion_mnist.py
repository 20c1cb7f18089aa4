"""Fashion-MNIST, from torchvision's files, Debian's, or a download."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import torch
from torchvision.datasets import FashionMNIST as Source

from dyncomp.data.dataset import Dataset, Splits
from dyncomp.data.folders import download, not_found, subfolders
from dyncomp.data.idx import has_idx, read_idx
from dyncomp.data.memory import Augmentation, Pair, in_memory
from dyncomp.data.splitting import hold_out, subset
from dyncomp.errors import DataNotFound
from dyncomp.registry import register_dataset
from dyncomp.spec import option

DEBIAN = Path("/usr/share/datasets/fashion-mnist")  # of the package dataset-fashion-mnist
RAW = "FashionMNIST/raw"  # of torchvision
FILES = [f"{part}-{kind}-ubyte" for part in ("train", "t10k") for kind in ("images-idx3", "labels-idx1")]
CALIBRATION = 5_000


@register_dataset("fashion_mnist", paper="arXiv:1708.07747")
@dataclass(frozen=True)
class FashionMnist(Dataset):
    """Fashion-MNIST: 70,000 grey 28x28 images of clothes (Debian: dataset-fashion-mnist).

    The published 10,000 test images are the test split; 5,000 of the 60,000 train images are the
    calibration split, classes in proportion, the same for every seed. Augmentation: a crop after
    padding by 2, and a flip.
    """

    default_backbone: ClassVar[str] = "cifar_resnet14"
    quick_epochs: ClassVar[int] = 3
    standard_epochs: ClassVar[int] = 30

    limit: int | None = option(None, "train images to keep, for trials; all by default", ge=1)

    def load(self, folders: Sequence[Path], seed: int) -> Splits:
        """See `Dataset.load`."""
        folder = _find(folders)
        images, labels = _read(folder, "train")
        test = _read(folder, "t10k")
        train, calibration = hold_out(images, labels, min(CALIBRATION, len(images) // 2), test[0])
        return in_memory(
            subset("fashion_mnist", images[train], labels[train], self.limit, seed),
            (images[calibration], labels[calibration]),
            test,
            Source.classes,
            Augmentation(padding=2, flip=True),
        )


def _find(folders: Sequence[Path]) -> Path:
    """The folder with all four files; downloads them as a last resort."""
    places = [*subfolders(folders, "fashion-mnist", RAW), DEBIAN]
    for place in places:
        if all(has_idx(place / name) for name in FILES):
            return place
    reason = download(lambda folder: Source(folder, download=True), Source.__name__, folders[-1])
    if reason is not None:
        advice = f"{reason}; apt-get install dataset-fashion-mnist, or name its folder by --data-dir"
        raise not_found("fashion_mnist", f"{FILES[0]}[.gz] and its three companions", [*folders, DEBIAN], advice)
    return folders[-1] / RAW


def _read(folder: Path, part: str) -> Pair:
    """Images (N, 1, 28, 28) uint8 and labels (N,) of one part, `train` or `t10k`."""
    images = read_idx(folder / f"{part}-images-idx3-ubyte", dimensions=3)
    labels = read_idx(folder / f"{part}-labels-idx1-ubyte", dimensions=1)
    if len(images) != len(labels) or int(labels.max()) >= len(Source.classes):
        raise DataNotFound(f"{folder}: {part} images and labels do not belong together; get the data set again")
    return images[:, None], labels.to(torch.int64)
