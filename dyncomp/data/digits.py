"""The embedded default: real images, small enough for a minute, and always there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from torch.nn import functional

from dyncomp.data.dataset import Dataset, Splits
from dyncomp.data.memory import Augmentation, Pair, in_memory
from dyncomp.data.splitting import fingerprints, stratified_order
from dyncomp.registry import register_dataset
from dyncomp.spec import option

FILE = ("datasets", "data", "digits.csv.gz")
"""where scikit-learn has the images, within its package"""


@register_dataset("digits")
@dataclass(frozen=True)
class Digits(Dataset):
    """scikit-learn's handwritten digits: 1,797 real 8x8 grey images, no download.

    Train, calibration and test have 60, 20 and 20 % of the images, classes in proportion, the same
    for every seed. Augmentation shifts an image by up to an eighth of its side; a mirrored digit is
    none.
    """

    default_backbone: ClassVar[str] = "cifar_resnet14"
    quick_epochs: ClassVar[int] = 16
    standard_epochs: ClassVar[int] = 60

    size: int = option(8, "side in pixels that the images are resized to", ge=8, le=64)

    def load(self, folders: Sequence[Path], seed: int) -> Splits:
        """See `Dataset.load`; looks into no folder."""
        images, labels = _read()  # (N, 1, 8, 8), 17 grey levels
        order = stratified_order(labels, fingerprints(images.to(torch.uint8)))
        fifth = len(order) // 5
        images = self._resized(images.float() / 16)

        def pair(start: int, stop: int | None) -> Pair:
            members = torch.from_numpy(order[start:stop]).sort().values
            return images[members], labels[members]

        names = [str(digit) for digit in range(10)]
        splits = pair(2 * fifth, None), pair(fifth, 2 * fifth), pair(0, fifth)
        return in_memory(*splits, names, Augmentation(padding=self.size // 8))

    def _resized(self, images: torch.Tensor) -> torch.Tensor:
        if self.size == images.shape[-1]:
            return images
        return functional.interpolate(images, size=(self.size, self.size), mode="bilinear")


def _read() -> Pair:
    """The package's file, read without the package, whose import takes a second or two of every process."""
    package = find_spec("sklearn")
    places = (package and package.submodule_search_locations) or ()
    files = [Path(place, *FILE) for place in places]
    file = next((file for file in files if file.is_file()), None)
    if file is None:  # a release that keeps it elsewhere
        from sklearn.datasets import load_digits

        rows = np.column_stack(load_digits(return_X_y=True))
    else:
        rows = np.loadtxt(file, delimiter=",")  # (N, 65): 64 pixels and the digit
    return torch.from_numpy(rows[:, :-1]).reshape(-1, 1, 8, 8), torch.from_numpy(rows[:, -1]).long()
