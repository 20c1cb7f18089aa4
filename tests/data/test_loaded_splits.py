"""What every data set that can be loaded here must hold."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import pytest
import torch
from torch import Tensor

from dyncomp.data import Split, Splits, load
from dyncomp.data.fashion_mnist import DEBIAN
from dyncomp.errors import DataNotFound
from dyncomp.registry import DATASETS

SPECS = ["digits", "digits(size=16)", "shapes(images=600)", "shapes(images=600, channels=3)"]
if DEBIAN.is_dir():
    SPECS.append("fashion_mnist")


@pytest.fixture(scope="module", params=SPECS)
def splits(request: pytest.FixtureRequest) -> Splits:
    return load(DATASETS.create(request.param))


@lru_cache(maxsize=3)  # the splits of one data set
def gathered(split: Split) -> tuple[Tensor, Tensor]:
    batches = list(split.batches(1000))
    return torch.cat([batch.images for batch in batches]), torch.cat([b.labels for b in batches])


def parts(splits: Splits) -> dict[str, Split]:
    return {"train": splits.train, "calibration": splits.calibration, "test": splits.test}


def test_no_image_is_in_two_splits(splits: Splits) -> None:
    seen: dict[bytes, str] = {}
    for name, split in parts(splits).items():
        for image in gathered(split)[0]:
            content = image.numpy().tobytes()
            assert seen.setdefault(content, name) == name


def test_images_are_as_described(splits: Splits) -> None:
    shape = (splits.in_channels, splits.image_size, splits.image_size)
    assert splits.classes == len(splits.class_names) == len(set(splits.class_names))
    for split in parts(splits).values():
        images, labels = gathered(split)
        assert images.shape == (len(split), *shape)
        assert images.dtype == torch.float32
        assert labels.dtype == torch.int64
        assert torch.equal(labels, split.labels)
        assert images.isfinite().all()


def test_every_class_has_its_share_of_every_split(splits: Splits) -> None:
    counts = {name: part.labels.bincount(minlength=splits.classes) for name, part in parts(splits).items()}
    shares = {name: count / count.sum() for name, count in counts.items()}
    for share in shares.values():
        assert torch.allclose(share, shares["train"], atol=0.01)
        assert torch.allclose(share, torch.full_like(share, 1 / splits.classes), atol=0.01)


def test_normalisation_was_measured_on_train_alone(splits: Splits) -> None:
    for name, split in parts(splits).items():
        images = gathered(split)[0].double()
        mean, std = images.mean((0, 2, 3)), images.std((0, 2, 3), correction=0)
        standard = torch.allclose(mean, mean * 0, atol=1e-5) and torch.allclose(std, std * 0 + 1, atol=1e-5)
        assert standard == (name == "train")
    assert len(splits.mean) == len(splits.std) == splits.in_channels


def test_recorded_mean_and_deviation_undo_the_normalisation(splits: Splits) -> None:
    images, _ = gathered(splits.test)
    mean, std = (torch.tensor(value).view(-1, 1, 1) for value in (splits.mean, splits.std))
    pixels = images * std + mean
    assert -1e-6 < pixels.min() < 0.3
    assert 0.7 < pixels.max() < 1 + 1e-6


@pytest.mark.parametrize(("spec", "known"), [("digits", False), ("shapes(images=100)", True)])
def test_difficulty_is_of_the_test_images_where_it_is_known(spec: str, known: bool) -> None:
    splits = load(DATASETS.create(spec))
    assert (splits.difficulty is not None) == known
    if splits.difficulty is not None:
        assert splits.difficulty.shape == (len(splits.test),)
        assert 0 <= splits.difficulty.min() < splits.difficulty.max() <= 1


@pytest.mark.parametrize("spec", ["digits", "shapes(images=100)"])
def test_the_splits_do_not_depend_on_the_seed(spec: str) -> None:
    first, second = (load(DATASETS.create(spec), seed=seed) for seed in (0, 1))
    for name, split in parts(first).items():
        for one, other in zip(gathered(split), gathered(parts(second)[name]), strict=True):
            assert torch.equal(one, other)


def test_every_built_in_data_set_names_a_known_backbone_and_its_epochs() -> None:
    from dyncomp.registry import BACKBONES

    for name in ["cifar10", "cifar100", "digits", "fashion_mnist", "imagenet", "shapes"]:
        dataset = DATASETS.create(name)
        assert BACKBONES.create(dataset.default_backbone)
        assert 0 < dataset.quick_epochs < dataset.standard_epochs


@pytest.mark.parametrize("spec", ["cifar10", "cifar100", "imagenet"])
def test_data_that_is_nowhere_is_one_line_that_helps(
    spec: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("DYNCOMP_DATA", raising=False)
    monkeypatch.setattr("torchvision.datasets.CIFAR10.download", refuse)
    with pytest.raises(DataNotFound) as caught:
        load(DATASETS.create(spec), tmp_path)
    message = str(caught.value)
    assert message.startswith(f"{spec}: no folder")
    assert "\n" not in message
    assert "--data-dir" in message
    assert str(tmp_path) in message
    assert str(tmp_path / "cache" / "dyncomp") in message


def refuse(self: object) -> None:
    raise OSError("no route\nto host")
