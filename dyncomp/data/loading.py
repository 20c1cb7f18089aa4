"""A data set's splits, found and checked."""

from __future__ import annotations

from pathlib import Path

from dyncomp.data.dataset import Dataset, Splits
from dyncomp.data.folders import data_folders
from dyncomp.errors import DataNotFound
from dyncomp.spec import spec_of


def load(dataset: Dataset, data_dir: Path | None = None, seed: int = 0) -> Splits:
    """The data set's splits, from `data_dir` or the usual places.

    Raises:
        DataNotFound: its files are nowhere; the message says where it looked and how to get them. Or they are too few:
            a split without any image, or a single image to train on.
        InvalidValue: an option that does not fit the data.
    """
    splits = dataset.load(data_folders(data_dir), seed)
    for name, split, least in (
        ("train", splits.train, 2),  # batch normalisation learns from two images at least
        ("calibration", splits.calibration, 1),
        ("test", splits.test, 1),
    ):
        if len(split) < least:
            raise DataNotFound(
                f"{spec_of(dataset)}: {len(split)} images in the {name} split, at least {least} wanted; give more "
                "images (calibration images are taken from the train images of each class)"
            )
    return splits
