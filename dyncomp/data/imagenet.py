"""ImageNet, or any two folders of classes: files are read when a batch needs them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2

from dyncomp._images import Preparation
from dyncomp.data.dataset import Dataset, Splits
from dyncomp.data.files import FileSplit
from dyncomp.data.folders import first_with, not_found, subfolders
from dyncomp.data.splitting import file_fingerprints
from dyncomp.errors import DataNotFound
from dyncomp.registry import register_dataset
from dyncomp.spec import option

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of torchvision's pretrained networks
CALIBRATION_PER_CLASS = 50  # or a tenth of the class, if that is less


@register_dataset("imagenet", paper="arXiv:1409.0575")
@dataclass(frozen=True)
class ImageNet(Dataset):
    """ImageNet as folders train/<class>/ and val/<class>/ of image files; any such folders will do.

    `val` is the test split; 50 images of each class of `train`, a tenth where a class has fewer
    than 500, are the calibration split, chosen by file name, the same for every seed.
    Augmentation: a crop of random place and shape, and a flip; otherwise: the shorter side to
    size * 256 / 224, and the middle. Normalised as torchvision's pretrained networks expect it.
    """

    default_backbone: ClassVar[str] = "resnet18"
    quick_epochs: ClassVar[int] = 1
    standard_epochs: ClassVar[int] = 90

    size: int = option(224, "side in pixels of the images that the network sees", ge=32, le=1024)

    def load(self, folders: Sequence[Path], seed: int) -> Splits:
        """See `Dataset.load`."""
        train, test = _read(folders)
        files, labels = _columns(train)
        calibrating = _calibration(files, labels)
        shorter_side = self.size * 256 // 224
        plain = Preparation(3, self.size, shorter_side, MEAN, STD)
        augmented = self._augmented()

        def split(files: Sequence[str], labels: torch.Tensor) -> FileSplit:
            return FileSplit(files, labels, plain, augmented)

        return Splits(
            train=split(*_chosen(files, labels, ~calibrating)),
            calibration=split(*_chosen(files, labels, calibrating)),
            test=split(*_columns(test)),
            classes=len(train.classes),
            in_channels=3,
            image_size=self.size,
            class_names=tuple(train.classes),
            mean=MEAN,
            std=STD,
            shorter_side=shorter_side,
            notes=(*train.notes(), *test.notes()),
        )

    def _augmented(self) -> v2.Compose:
        """With augmentation (torchvision's reference recipe)."""
        tensor = [v2.ToImage(), v2.ToDtype(torch.float32, scale=True), v2.Normalize(MEAN, STD)]
        changed = [v2.RandomResizedCrop(self.size, antialias=True), v2.RandomHorizontalFlip()]
        return v2.Compose([*changed, *tensor])


class _Folder(ImageFolder):  # type: ignore[misc]
    """A folder of classes; folders that programs make for themselves, `.ipynb_checkpoints` or `__MACOSX`, are none."""

    def find_classes(self, directory: str | Path) -> tuple[list[str], dict[str, int]]:
        """See `ImageFolder.find_classes`."""
        names, _ = super().find_classes(directory)
        self.left_out = [name for name in names if name.startswith((".", "__", "@"))]
        kept = [name for name in names if name not in self.left_out]
        if not kept:
            raise FileNotFoundError(f"Couldn't find any class folder in {directory}.")
        return kept, {name: place for place, name in enumerate(kept)}

    def notes(self) -> list[str]:
        """What was left out, a line each."""
        return [f"{self.root}/{name} is not taken for a class" for name in self.left_out]


def _read(folders: Sequence[Path]) -> tuple[_Folder, _Folder]:
    """The lists of `train` and `val`, which must have the same classes."""
    places = subfolders(folders, "imagenet")
    folder = first_with(("train", "val"), places)
    if folder is None:
        advice = "name the folder that holds train/<class>/ and val/<class>/ by --data-dir"
        raise not_found("imagenet", "folders train and val", places, advice)
    try:
        train, test = _Folder(folder / "train"), _Folder(folder / "val")
    except FileNotFoundError as error:
        reason = " ".join(str(error).split())
        raise DataNotFound(f"imagenet: {folder} is incomplete: {reason}") from error
    odd = sorted(set(train.classes) ^ set(test.classes))
    if odd:
        raise DataNotFound(
            f"imagenet: {folder}: train and val have different classes, such as {odd[0]}; give both the same folders"
        )
    return train, test


def _columns(folder: _Folder) -> tuple[list[str], torch.Tensor]:
    return [file for file, _ in folder.samples], torch.tensor(folder.targets, dtype=torch.int64)


def _chosen(files: Sequence[str], labels: torch.Tensor, members: torch.Tensor) -> tuple[list[str], torch.Tensor]:
    positions = members.nonzero().flatten()
    return [files[position] for position in positions.tolist()], labels[positions]


def _calibration(files: Sequence[str], labels: torch.Tensor) -> torch.Tensor:
    """(N,) bool: which of the train files are for calibration."""
    prints, classes = file_fingerprints(files), labels.numpy()
    chosen = torch.zeros(len(files), dtype=torch.bool)
    for label in np.unique(classes):
        members = np.flatnonzero(classes == label)
        count = min(CALIBRATION_PER_CLASS, max(1, len(members) // 10), len(members) - 1)
        chosen[members[np.argsort(prints[members])[:count]]] = True
    return chosen
