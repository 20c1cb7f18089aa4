"""CIFAR-10 and CIFAR-100, through torchvision.

torchvision reads the original archives, which are pickles; it does so only when every file has the
published checksum.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import torch
from numpy.exceptions import VisibleDeprecationWarning
from torchvision.datasets import CIFAR10, CIFAR100
from torchvision.datasets.utils import check_integrity

from dyncomp.data.dataset import Dataset, Splits
from dyncomp.data.folders import download, not_found
from dyncomp.data.memory import Augmentation, in_memory
from dyncomp.data.splitting import hold_out, subset
from dyncomp.errors import DataNotFound
from dyncomp.registry import register_dataset
from dyncomp.spec import option

CALIBRATION = 5_000
Source = type[CIFAR10]  # CIFAR100 is one of them


@register_dataset("cifar10")
@dataclass(frozen=True)
class Cifar10(Dataset):
    """CIFAR-10: 60,000 colour 32x32 images in 10 classes (Krizhevsky 2009).

    The published 10,000 test images are the test split; 5,000 of the 50,000 train images are the
    calibration split, classes in proportion, the same for every seed. Copies of an image are left
    out of training. Augmentation: a crop after padding by 4, and a flip (He et al. 2016,
    arXiv:1512.03385, 4.2).
    """

    default_backbone: ClassVar[str] = "cifar_resnet20"
    quick_epochs: ClassVar[int] = 10
    standard_epochs: ClassVar[int] = 160

    limit: int | None = option(None, "train images to keep, for trials; all by default", ge=1)

    def load(self, folders: Sequence[Path], seed: int) -> Splits:
        """See `Dataset.load`."""
        return _load("cifar10", CIFAR10, folders, self.limit, seed)


@register_dataset("cifar100")
@dataclass(frozen=True)
class Cifar100(Dataset):
    """CIFAR-100: 60,000 colour 32x32 images in 100 classes (Krizhevsky 2009).

    Split and augmented as `cifar10`; the 100 fine classes are the labels.
    """

    default_backbone: ClassVar[str] = "cifar_resnet20"
    quick_epochs: ClassVar[int] = 10
    standard_epochs: ClassVar[int] = 160

    limit: int | None = option(None, "train images to keep, for trials; all by default", ge=1)

    def load(self, folders: Sequence[Path], seed: int) -> Splits:
        """See `Dataset.load`."""
        return _load("cifar100", CIFAR100, folders, self.limit, seed)


def _load(name: str, source: Source, folders: Sequence[Path], limit: int | None, seed: int) -> Splits:
    root = _find(name, source, folders)
    images, labels, names = _read(source, root, train=True)
    test_images, test_labels, _ = _read(source, root, train=False)
    train, calibration = hold_out(images, labels, min(CALIBRATION, len(images) // 2), test_images)
    return in_memory(
        subset(name, images[train], labels[train], limit, seed),
        (images[calibration], labels[calibration]),
        (test_images, test_labels),
        names,
        Augmentation(padding=4, flip=True, border="mean"),
    )


def _find(name: str, source: Source, folders: Sequence[Path]) -> Path:
    """The folder that holds torchvision's, undamaged; downloads it as a last resort."""
    wanted = source.base_folder
    for place in folders:
        root = place.parent if place.name == wanted else place
        if (root / wanted).is_dir():
            return _checked(name, source, root)
    reason = download(lambda folder: source(folder, download=True), wanted, folders[-1])
    if reason is not None:
        advice = f"{reason}; unpack {source.filename} into a folder and name that by --data-dir"
        raise not_found(name, f"folder {wanted}", folders, advice)
    return _checked(name, source, folders[-1])


def _checked(name: str, source: Source, root: Path) -> Path:
    """`root`, if every file has its published checksum."""
    meta = (source.meta["filename"], source.meta["md5"])
    for file, checksum in (*source.train_list, *source.test_list, meta):
        path = root / source.base_folder / file
        if not check_integrity(str(path), checksum):
            state = "damaged (its checksum is not the published one)" if path.exists() else "missing"
            raise DataNotFound(f"{name}: {path} is {state}; delete {path.parent} and get the data set again")
    return root


def _read(source: Source, root: Path, train: bool) -> tuple[torch.Tensor, torch.Tensor, list[str]]:
    """Images (N, 3, 32, 32) uint8, labels (N,) and the names of the classes."""
    with warnings.catch_warnings():
        # the archives hold dtypes as NumPy pickled them in 2009, which version 2.4.0 complains about
        warnings.simplefilter("ignore", VisibleDeprecationWarning)
        data = source(root, train=train)
    images = torch.from_numpy(data.data).permute(0, 3, 1, 2).contiguous()  # (N, 32, 32, 3) -> (N, 3, 32, 32)
    return images, torch.tensor(data.targets, dtype=torch.int64), list(data.classes)
