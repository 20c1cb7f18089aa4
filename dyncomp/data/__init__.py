"""Data sets behind one loader; a data set is a file in this folder, or anywhere: see `Dataset`."""

from __future__ import annotations

from pathlib import Path

from dyncomp.data.dataset import Batch, Dataset, Split, Splits, Streams
from dyncomp.data.folders import data_folders
from dyncomp.data.memory import Augmentation, ImageSplit, in_memory

__all__ = [
    "Augmentation",
    "Batch",
    "Dataset",
    "ImageSplit",
    "Split",
    "Splits",
    "Streams",
    "data_folders",
    "in_memory",
    "load",
]


def load(dataset: Dataset, data_dir: Path | None = None, seed: int = 0) -> Splits:
    """The data set's splits, from `data_dir` or the usual places.

    Raises:
        DataNotFound: its files are nowhere; the message says where it looked and how to get them.
        InvalidValue: an option that does not fit the data.
    """
    return dataset.load(data_folders(data_dir), seed)
