"""Small archives in CIFAR's original format, random pixels in them."""

from __future__ import annotations

import hashlib
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torchvision

from dyncomp.data import Dataset
from dyncomp.data.cifar import Cifar10


class OldArray:
    """An array as NumPy of 2009 pickled it: the dtype's `align` is a number, which version 2.4.0 complains about."""

    def __init__(self, array: np.ndarray) -> None:
        self.array = array

    def __reduce__(self) -> tuple[Any, ...]:
        return old_array, (OldType(), self.array.shape, self.array.tobytes())


class OldType:
    def __reduce__(self) -> tuple[Any, ...]:
        return np.dtype, ("u1", 0, 1)


def old_array(dtype: np.dtype, shape: tuple[int, ...], content: bytes) -> np.ndarray:
    return np.frombuffer(content, dtype).reshape(shape)


def write(path: Path, content: dict[str, Any]) -> str:
    path.write_bytes(pickle.dumps(content))
    return hashlib.md5(path.read_bytes()).hexdigest()


def batch(number: int, count: int, classes: int, label_key: str) -> dict[str, Any]:
    pixels = np.random.default_rng(number).integers(0, 256, (count, 3072), dtype=np.uint8)
    return {"data": OldArray(pixels), label_key: [image % classes for image in range(count)]}


def write_archive(
    kind: type[Dataset],
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    count: int,
    classes: int,
    label_key: str,
) -> Path:
    """An archive with `count` images a file in a folder of its own, whose checksums torchvision is told to expect."""
    source = torchvision.datasets.CIFAR10 if kind is Cifar10 else torchvision.datasets.CIFAR100
    inside = folder / source.base_folder
    inside.mkdir(parents=True)
    for files in ("train_list", "test_list"):
        names = [name for name, _ in getattr(source, files)]
        batches = [batch(len(name) + i, count, classes, label_key) for i, name in enumerate(names)]
        sums = [[name, write(inside / name, one)] for name, one in zip(names, batches, strict=True)]
        monkeypatch.setattr(source, files, sums)
    names = {source.meta["key"]: [f"class {label}" for label in range(classes)]}
    monkeypatch.setattr(source, "meta", {**source.meta, "md5": write(inside / source.meta["filename"], names)})
    return inside
