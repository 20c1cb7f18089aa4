"""Batches of images in memory: order, shuffling, augmentation."""

from __future__ import annotations

import time
from typing import Any

import pytest
import torch
from torch import Tensor

from dyncomp.data import Augmentation, Batch, ImageSplit, in_memory
from dyncomp.errors import InvalidValue

H, W = 6, 5


def split(
    count: int = 20, augmentation: Augmentation | None = None, channels: int = 2, floating: bool = False
) -> ImageSplit:
    """Images whose pixels are all different and never black; not normalised."""
    images = 1 + torch.arange(count * channels * H * W).view(count, channels, H, W) % 250
    mean, std = torch.zeros(channels), torch.ones(channels) / 255
    pixels = images / 255 if floating else images.to(torch.uint8)
    return ImageSplit(pixels, torch.arange(count) % 3, mean, std, augmentation or Augmentation())


def indices(batches: list[Batch]) -> list[int]:
    return torch.cat([batch.index for batch in batches]).tolist()


def epoch(part: ImageSplit, *, epoch: int = 0, seed: int = 0, augment: float = 0.0, size: int = 4) -> list[Batch]:
    return list(part.batches(size, epoch=epoch, seed=seed, augment=augment))


def same(one: list[Batch], other: list[Batch]) -> bool:
    pairs = zip(one, other, strict=True)
    return all(torch.equal(a, b) for pair in pairs for a, b in zip(*pair, strict=True))


def test_without_an_epoch_images_come_in_order_and_all() -> None:
    part = split(10)
    batches = list(part.batches(4))
    assert [len(batch.labels) for batch in batches] == [4, 4, 2]
    assert indices(batches) == list(range(10))


@pytest.mark.parametrize(
    ("count", "size", "used"), [(20, 4, 20), (20, 6, 18), (5, 8, 5), (8, 8, 8), (9, 8, 8), (1, 1, 1)]
)
def test_an_epoch_drops_the_images_that_fill_no_batch(count: int, size: int, used: int) -> None:
    batches = epoch(split(count), size=size)
    assert len(indices(batches)) == len(set(indices(batches))) == used
    assert len({len(batch.labels) for batch in batches}) == 1


def test_the_index_leads_back_to_the_image() -> None:
    part = split(floating=True)
    for batch in epoch(part):
        assert torch.allclose(batch.images, part.images[batch.index] * 255)
        assert torch.equal(batch.labels, part.labels[batch.index])


def test_order_and_augmentation_are_a_matter_of_seed_and_epoch() -> None:
    part = split(augmentation=Augmentation(padding=2, flip=True))
    reference = epoch(part, epoch=3, seed=5, augment=True)
    torch.manual_seed(99)  # what the caller does with the global state is no matter
    assert same(reference, epoch(part, epoch=3, seed=5, augment=True))
    assert indices(reference) == indices(epoch(part, epoch=3, seed=5))
    for other in ({"epoch": 4, "seed": 5}, {"epoch": 3, "seed": 6}, {"epoch": 5, "seed": 3}):
        assert indices(reference) != indices(epoch(part, **other))


def test_the_global_random_state_is_left_alone() -> None:
    before = torch.get_rng_state()
    epoch(split(augmentation=Augmentation(padding=1, flip=True)), augment=True)
    assert torch.equal(before, torch.get_rng_state())


def test_what_happens_to_an_image_does_not_depend_on_the_batch_size() -> None:
    part = split(augmentation=Augmentation(padding=2, flip=True))
    by_size = []
    for size in (1, 4, 20):
        batches = epoch(part, augment=True, size=size)
        by_size.append(torch.cat([batch.images for batch in batches]))
    assert torch.equal(by_size[0], by_size[1])
    assert torch.equal(by_size[0], by_size[2])


def every_change(image: Tensor, padding: int, flip: bool, border: float) -> list[Tensor]:
    """All that random crop and flip can make of an image (C, H, W), spelled out with slices."""
    room = torch.full((len(image), H + 2 * padding, W + 2 * padding), border)
    room[:, padding : padding + H, padding : padding + W] = image
    starts = range(2 * padding + 1)
    crops = [room[:, top : top + H, left : left + W] for top in starts for left in starts]
    return [*crops, *(crop.flip(-1) for crop in crops)] if flip else crops


@pytest.mark.parametrize("floating", [False, True])
@pytest.mark.parametrize(("padding", "flip"), [(0, False), (1, False), (0, True), (1, True), (2, True)])
def test_augmentation_is_crop_and_flip_and_reaches_every_one(padding: int, flip: bool, floating: bool) -> None:
    part = split(4, Augmentation(padding, flip), floating=floating)
    possible = [every_change(image, padding, flip, 0.0) for image in next(iter(part.batches(4))).images]
    seen = set()
    for number in range(60):
        for batch in epoch(part, epoch=number, augment=True):
            assert batch.images.shape == (4, 2, H, W)
            assert torch.equal(batch.labels, part.labels[batch.index])
            for image, index in zip(batch.images, batch.index.tolist(), strict=True):
                matches = [k for k, other in enumerate(possible[index]) if torch.allclose(image, other)]
                assert len(matches) == 1
                seen.update(matches)
    assert seen == set(range(len(possible[0])))


@pytest.mark.parametrize(("strength", "padding"), [(0.01, 0), (0.25, 1), (0.5, 2), (0.6, 2), (1.0, 4)])
def test_a_strength_is_a_share_of_the_distance_and_flips_as_ever(strength: float, padding: int) -> None:
    part = split(4, Augmentation(padding=4, flip=True))
    weaker = split(4, Augmentation(padding=padding, flip=True))
    for number in range(5):
        assert same(epoch(part, epoch=number, augment=strength), epoch(weaker, epoch=number, augment=1.0))


def test_no_strength_changes_nothing_and_true_is_the_whole() -> None:
    part = split(augmentation=Augmentation(padding=2, flip=True))
    assert same(epoch(part, augment=0.0), epoch(split()))
    assert same(epoch(part, augment=True), epoch(part, augment=1.0))
    assert not same(epoch(part, augment=0.5), epoch(part, augment=1.0))


def test_a_mean_border_is_zero_after_normalisation() -> None:
    images = torch.rand(8, 3, 6, 6)
    pair = images, torch.zeros(8, dtype=torch.int64)
    splits = in_memory(pair, pair, pair, ["one"], Augmentation(padding=6, border="mean"))
    batches = [b for number in range(40) for b in splits.train.batches(8, epoch=number, augment=True)]
    outside = [image for batch in batches for image in batch.images if image.abs().max() < 1e-5]
    assert outside  # an image that was moved out of its frame altogether


def test_splits_of_bytes_and_of_floats_are_normalised_alike() -> None:
    images = torch.randint(0, 256, (50, 3, 6, 6), dtype=torch.uint8)
    labels = torch.zeros(50, dtype=torch.int64)
    whole, parts = ((x, labels) for x in (images, images / 255))
    first, second = (in_memory(pair, pair, pair, ["one"], Augmentation()) for pair in (whole, parts))
    assert first.mean == pytest.approx(second.mean, abs=1e-6)
    assert first.std == pytest.approx(second.std, abs=1e-6)
    one, other = (next(iter(s.test.batches(50))).images for s in (first, second))
    assert torch.allclose(one, other, atol=1e-5)
    assert first.std == pytest.approx((images / 255).double().std((0, 2, 3), correction=0).tolist())


def test_a_constant_channel_does_not_divide_by_zero() -> None:
    pair = torch.full((4, 1, 6, 6), 7, dtype=torch.uint8), torch.zeros(4, dtype=torch.int64)
    splits = in_memory(pair, pair, pair, ["one"], Augmentation())
    assert next(iter(splits.train.batches(4))).images.abs().max() < 1e-4


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"batch_size": 0}, "batch_size=0"),
        ({"batch_size": 2, "augment": 0.5}, "augment=0.5 without an epoch"),
        *[
            ({"batch_size": 2, "epoch": 0, "augment": wrong}, f"augment={wrong} is no strength; give")
            for wrong in (-0.1, 1.5, float("nan"))
        ],
    ],
)
def test_what_cannot_be_done_is_said(arguments: dict[str, Any], words: str) -> None:
    with pytest.raises(InvalidValue, match=words) as caught:
        list(split().batches(**arguments))
    assert "\n" not in str(caught.value)


def test_an_epoch_of_a_thousand_small_images_takes_no_time() -> None:
    images = torch.zeros(1100, 1, 8, 8)
    one = ImageSplit(images, torch.zeros(1100).long(), torch.zeros(1), torch.ones(1), Augmentation(1))
    epoch(one, augment=True, size=64)
    best = min(timed(one, number) for number in range(5))
    assert best < 0.05  # some 3 ms on an idle core


def timed(part: ImageSplit, number: int) -> float:
    start = time.perf_counter()
    epoch(part, epoch=number, augment=True, size=64)
    return time.perf_counter() - start
