"""ImageNet's loader on small folders of real JPEG files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from dyncomp.data import Batch, Split, Splits, load
from dyncomp.data.imagenet import MEAN, STD, ImageNet
from dyncomp.errors import DataNotFound

CLASSES = ["n01", "n02", "n03"]
TRAIN, VAL = 20, 4


def write_images(folder: Path) -> None:
    rng = np.random.default_rng(0)
    for part, count in (("train", TRAIN), ("val", VAL)):
        for name in CLASSES:
            (folder / part / name).mkdir(parents=True)
            for number in range(count):
                pixels = np.kron(rng.integers(0, 256, (5, 6, 3), dtype=np.uint8), np.ones((10, 10, 1), np.uint8))
                picture = Image.fromarray(pixels if number else pixels[..., 0])  # one of each class is grey
                picture.save(folder / part / name / f"{part}_{number}.JPEG")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data") / "imagenet"
    write_images(path)
    return path


@pytest.fixture(scope="module")
def splits(folder: Path) -> Splits:
    return load(ImageNet(size=32), folder)


def epoch(split: Split, number: int = 0, *, seed: int = 0, size: int = 8, augment: float = 1.0) -> list[Batch]:
    return list(split.batches(size, epoch=number, seed=seed, augment=augment))


def by_index(batches: list[Batch]) -> dict[int, torch.Tensor]:
    return {int(i): image for batch in batches for i, image in zip(batch.index, batch.images, strict=True)}


def test_splits_share_no_file_and_keep_the_classes_in_proportion(splits: Splits) -> None:
    files = [getattr(part, "files") for part in (splits.train, splits.calibration, splits.test)]  # noqa: B009
    assert [len(part) for part in files] == [54, 6, 12]
    assert len(set().union(*files)) == 72
    for part in (splits.train, splits.calibration, splits.test):
        assert len(set(part.labels.bincount().tolist())) == 1
    assert splits.class_names == tuple(CLASSES)
    assert (splits.classes, splits.in_channels, splits.image_size) == (3, 3, 32)


def test_the_calibration_files_do_not_depend_on_place_or_seed(splits: Splits, tmp_path: Path) -> None:
    write_images(tmp_path / "imagenet")
    moved = load(ImageNet(size=32), tmp_path, seed=3)
    names = [[Path(file).parts[-2:] for file in s.calibration.files] for s in (splits, moved)]  # type: ignore[attr-defined]
    assert names[0] == names[1]


def test_test_images_are_resized_and_cropped_in_the_middle(splits: Splits) -> None:
    batch = next(iter(splits.test.batches(5)))
    assert batch.images.shape == (5, 3, 32, 32)
    assert batch.images.dtype == torch.float32
    assert batch.index.tolist() == [0, 1, 2, 3, 4]
    with Image.open(splits.test.files[1]) as opened:  # type: ignore[attr-defined]
        short = 32 * 256 // 224  # the images are 60 x 50
        resized = opened.resize((short * 60 // 50, short), Image.Resampling.BILINEAR)
    left, top = round((resized.width - 32) / 2), round((short - 32) / 2)
    pixels = np.asarray(resized)[top : top + 32, left : left + 32] / 255
    expected = torch.from_numpy((pixels - MEAN) / STD).permute(2, 0, 1).float()
    assert torch.allclose(batch.images[1], expected, atol=1e-5)


def test_an_epoch_follows_seed_and_epoch_alone(splits: Splits) -> None:
    reference = epoch(splits.train, 1)
    torch.manual_seed(1)
    again = epoch(splits.train, 1)
    for one, other in zip(reference, again, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))
    for other in (epoch(splits.train, 2), epoch(splits.train, 1, seed=1)):
        assert not torch.equal(reference[0].index, other[0].index)
    assert sum(len(batch.labels) for batch in reference) == 48


def test_augmentation_does_not_depend_on_batches_and_differs_between_epochs(splits: Splits) -> None:
    one, other = by_index(epoch(splits.train, size=2)), by_index(epoch(splits.train, size=27))
    assert all(torch.equal(image, other[index]) for index, image in one.items())
    later, plain = by_index(epoch(splits.train, 1, size=2)), by_index(epoch(splits.train, size=2, augment=0.0))
    for batches in (later, plain):
        assert sum(torch.equal(image, batches[index]) for index, image in one.items()) == 0


def test_worker_processes_change_nothing(splits: Splits, monkeypatch: pytest.MonkeyPatch) -> None:
    alone = epoch(splits.train)
    monkeypatch.setattr("dyncomp.data.files._workers", lambda images: 2)
    for one, other in zip(alone, epoch(splits.train), strict=True):
        assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def test_the_global_random_state_is_left_alone(splits: Splits) -> None:
    before = torch.get_rng_state()
    epoch(splits.train)
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("keep", [0, 300])
def test_a_damaged_image_is_named_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, workers: int, keep: int
) -> None:
    write_images(tmp_path)
    file = tmp_path / "val" / "n02" / "val_1.JPEG"
    file.write_bytes(file.read_bytes()[:keep])
    monkeypatch.setattr("dyncomp.data.files._workers", lambda images: workers)
    splits = load(ImageNet(size=32), tmp_path)
    with pytest.raises(DataNotFound) as caught:
        list(splits.test.batches(4))
    assert str(caught.value).startswith(f"{file} {'cannot be read as an image' if keep else 'is no image'}")
    assert "\n" not in str(caught.value)


def test_classes_of_one_part_only_are_refused(tmp_path: Path) -> None:
    write_images(tmp_path)
    (tmp_path / "val" / "n03").rename(tmp_path / "val" / "n04")
    with pytest.raises(DataNotFound, match="different classes, such as n03"):
        load(ImageNet(), tmp_path)


def test_an_empty_class_is_refused(tmp_path: Path) -> None:
    write_images(tmp_path)
    for file in (tmp_path / "train" / "n01").iterdir():
        file.unlink()
    with pytest.raises(DataNotFound, match=r"is incomplete.*n01"):
        load(ImageNet(), tmp_path)


@pytest.mark.parametrize("name", [".ipynb_checkpoints", "__MACOSX", "@eaDir", ".git", "__pycache__"])
def test_folders_that_programs_make_are_no_classes(tmp_path: Path, name: str) -> None:
    write_images(tmp_path)
    for part in ("train", "val"):
        (tmp_path / part / name).mkdir()
        Image.new("RGB", (40, 40)).save(tmp_path / part / name / "a.png")
    splits = load(ImageNet(size=32), tmp_path)
    assert splits.class_names == tuple(CLASSES)
    assert splits.notes == tuple(f"{tmp_path / part / name} is not taken for a class" for part in ("train", "val"))


def test_too_few_images_are_told_before_anything_is_trained(tmp_path: Path) -> None:
    write_images(tmp_path)
    for file in (tmp_path / "train").glob("*/train_*.JPEG"):
        if file.name != "train_0.JPEG":
            file.unlink()
    with pytest.raises(
        DataNotFound, match=r"imagenet\(size=32\): 0 images in the calibration split, at least 1 wanted"
    ):
        load(ImageNet(size=32), tmp_path)


DEPTHS = {"8000": 8000 / 65535, "48000": 48000 / 65535, "0": 0.0, "65535": 1.0, "257": 1 / 255}


@pytest.mark.parametrize("level", DEPTHS)
@pytest.mark.parametrize("form", ["png", "tif"])
def test_sixteen_bits_keep_their_brightness(tmp_path: Path, level: str, form: str) -> None:
    write_images(tmp_path)
    file = tmp_path / "val" / "n01" / f"a.{form}"
    Image.fromarray(np.full((40, 40), int(level), np.uint16)).save(file)
    split = load(ImageNet(size=32), tmp_path).test
    (image,) = [batch.images[0] for batch in split.batches(1) if split.files[int(batch.index)] == str(file)]  # type: ignore[attr-defined]
    seen = image * torch.tensor(STD).view(3, 1, 1) + torch.tensor(MEAN).view(3, 1, 1)
    assert torch.allclose(seen, torch.tensor(DEPTHS[level]), atol=1 / 255)


@pytest.mark.parametrize("turn", [1, 3, 6, 8])
def test_the_orientation_of_a_photo_is_applied(tmp_path: Path, turn: int) -> None:
    write_images(tmp_path)
    pixels = np.zeros((64, 64, 3), np.uint8)
    pixels[:32, :32] = 255  # its upper left quarter is white
    exif = Image.Exif()
    exif[0x0112] = turn
    file = tmp_path / "val" / "n01" / "a.jpg"
    Image.fromarray(pixels).save(file, exif=exif)
    split = load(ImageNet(size=32), tmp_path).test
    (image,) = [batch.images[0] for batch in split.batches(1) if split.files[int(batch.index)] == str(file)]  # type: ignore[attr-defined]
    corners = {1: image[0, 0, 0], 3: image[0, -1, -1], 6: image[0, 0, -1], 8: image[0, -1, 0]}
    assert corners[turn] == max(corners.values()) > min(corners.values())
