"""CIFAR from small archives of the original format, read by torchvision's own classes."""

from __future__ import annotations

import hashlib
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision

from dyncomp.data import Dataset, load
from dyncomp.data.cifar import Cifar10, Cifar100
from dyncomp.errors import DataNotFound

COUNT = 40  # images per file


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


def batch(number: int, classes: int, label_key: str) -> dict[str, Any]:
    pixels = np.random.default_rng(number).integers(0, 256, (COUNT, 3072), dtype=np.uint8)
    return {"data": OldArray(pixels), label_key: [image % classes for image in range(COUNT)]}


@pytest.fixture(params=[(Cifar10, 10, "labels"), (Cifar100, 20, "fine_labels")], ids=["cifar10", "cifar100"])
def written(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Dataset, Path]:
    """A data set, and the folder that holds its archive, whose checksums torchvision is told to expect."""
    kind, classes, label_key = request.param
    source = torchvision.datasets.CIFAR10 if kind is Cifar10 else torchvision.datasets.CIFAR100
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    folder = tmp_path / "data" / source.base_folder
    folder.mkdir(parents=True)
    for files in ("train_list", "test_list"):
        names = [name for name, _ in getattr(source, files)]
        sums = [[name, write(folder / name, batch(len(name) + i, classes, label_key))] for i, name in enumerate(names)]
        monkeypatch.setattr(source, files, sums)
    names = {source.meta["key"]: [f"class {label}" for label in range(classes)]}
    monkeypatch.setattr(source, "meta", {**source.meta, "md5": write(folder / source.meta["filename"], names)})
    return kind(), folder


@pytest.mark.parametrize("inside", [False, True])
def test_the_original_archive_is_read(written: tuple[Dataset, Path], inside: bool) -> None:
    dataset, folder = written
    splits = load(dataset, folder if inside else folder.parent)
    assert (splits.in_channels, splits.image_size, len(splits.test)) == (3, 32, COUNT)
    assert len(splits.train) == len(splits.calibration) == (100 if splits.classes == 10 else 20)
    assert splits.class_names[1] == "class 1"


def test_the_images_are_those_of_torchvision(written: tuple[Dataset, Path]) -> None:
    dataset, folder = written
    splits = load(dataset, folder.parent)
    content = pickle.loads(next(folder.glob("test*")).read_bytes())["data"].reshape(COUNT, 3, 32, 32)
    images = next(iter(splits.test.batches(COUNT))).images
    mean, std = (torch.tensor(value).view(-1, 1, 1) for value in (splits.mean, splits.std))
    assert torch.equal(((images * std + mean) * 255).round().to(torch.uint8), torch.from_numpy(content.copy()))


def test_a_damaged_file_is_named_before_it_is_read(written: tuple[Dataset, Path]) -> None:
    dataset, folder = written
    file = next(folder.glob("test*"))
    file.write_bytes(b"not what was published")
    with pytest.raises(DataNotFound, match="is damaged") as caught:
        load(dataset, folder.parent)
    assert str(file) in str(caught.value)


def test_a_missing_file_is_named(written: tuple[Dataset, Path]) -> None:
    dataset, folder = written
    file = next(folder.glob("*meta"))
    file.unlink()
    with pytest.raises(DataNotFound, match="is missing") as caught:
        load(dataset, folder.parent)
    assert str(file) in str(caught.value)
