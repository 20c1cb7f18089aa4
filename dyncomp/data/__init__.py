"""Data sets behind one loader; a data set is a file in this folder, or anywhere: see `Dataset`."""

from __future__ import annotations

from dyncomp.data.dataset import Batch, Dataset, Split, Splits, Streams
from dyncomp.data.folders import data_folders
from dyncomp.data.loading import load
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
