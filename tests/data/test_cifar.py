"""CIFAR from small archives of the original format, read by torchvision's own classes."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest
import torch

from dyncomp.data import Dataset, load
from dyncomp.data.cifar import Cifar10, Cifar100
from dyncomp.errors import DataNotFound
from tests.cifar import write_archive

COUNT = 40  # images per file


@pytest.fixture(params=[(Cifar10, 10, "labels"), (Cifar100, 20, "fine_labels")], ids=["cifar10", "cifar100"])
def written(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Dataset, Path]:
    """A data set, and the folder that holds its archive, whose checksums torchvision is told to expect."""
    kind, classes, label_key = request.param
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    folder = write_archive(kind, tmp_path / "data", monkeypatch, COUNT, classes, label_key)
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
