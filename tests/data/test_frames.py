"""Streams of frames: where their images come from, what is wrong with them, and how much."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn import functional
from torchvision.transforms.v2.functional import gaussian_blur

from dyncomp.data import ImageSplit, Split, Splits, load
from dyncomp.data.degrade import BLUR, CLEAN, DARK, DARKNESS, KINDS, NOISE, OCCLUSION, READ_NOISE, degrade, jitter
from dyncomp.data.memory import Augmentation, generator, in_memory
from dyncomp.errors import InvalidValue, UnknownName
from dyncomp.registry import DATASETS


def frames(options: str = "", seed: int = 0) -> Splits:
    return load(DATASETS.create(f"frames({options})"), seed=seed)


def pixels(split: Split) -> Tensor:
    assert isinstance(split, ImageSplit)
    return split.images


def test_a_stream_is_one_image_seen_again() -> None:
    source, filmed = load(DATASETS.create("digits")), frames("length=5, bad=0.0")
    assert filmed.streams is not None
    assert filmed.streams.length == 5
    assert torch.equal(filmed.test.labels, source.test.labels.repeat_interleave(5))
    assert torch.equal(filmed.calibration.labels, source.calibration.labels.repeat_interleave(5))
    assert torch.equal(filmed.train.labels, source.train.labels.repeat_interleave(2))
    seen, still = pixels(filmed.test).float().view(-1, 5, 64), pixels(source.test)
    assert alike(seen, still).min() > 0.98
    assert alike(seen, still.roll(1, 0)).mean() < 0.9  # the next image


def alike(seen: Tensor, still: Tensor) -> Tensor:
    """(N, L) greatest cosine of frames (N, L, 64) with the images (N, 1, 8, 8) moved by up to a pixel."""
    padded = functional.pad(still, (1, 1, 1, 1), mode="replicate")
    moved = torch.stack([padded[:, 0, y : y + 8, x : x + 8].flatten(1) for y in range(3) for x in range(3)], 1)
    return (functional.normalize(seen, dim=2) @ functional.normalize(moved, dim=2).transpose(1, 2)).amax(2)


@pytest.mark.parametrize("bad", [0.0, 0.3, 1.0])
def test_kinds_and_severities_are_drawn_as_asked(bad: float) -> None:
    splits = frames(f"bad={bad}, mildest=0.6, worst=0.7")
    streams = splits.streams
    assert streams is not None and splits.difficulty is not None
    assert streams.kind_names == KINDS == ("clean", "blur", "noise", "dark", "occlusion")
    assert len(streams.kinds) == len(streams.severity) == len(splits.test) == len(splits.difficulty)
    share = streams.kinds.bincount(minlength=5) / len(streams.kinds)
    assert share[CLEAN] == pytest.approx(1 - bad, abs=0.03)
    assert all(value == pytest.approx(bad / 4, abs=0.03) for value in share[1:].tolist())
    flawed = streams.kinds != CLEAN
    assert bool((streams.severity[~flawed] == 0).all())
    assert bool((streams.severity[flawed] >= 0.6).all() and (streams.severity[flawed] <= 0.7).all())
    assert torch.equal(splits.difficulty, streams.severity)


def test_test_and_calibration_frames_are_the_same_for_every_seed_and_train_frames_are_not() -> None:
    first, again, other = frames(seed=0), frames(seed=0), frames(seed=1)
    assert torch.equal(pixels(first.train), pixels(again.train))
    assert not torch.equal(pixels(first.train), pixels(other.train))
    for one, two in ((first.calibration, other.calibration), (first.test, other.test)):
        assert torch.equal(pixels(one), pixels(two))
        assert torch.equal(one.labels, two.labels)


def test_no_frame_is_in_two_splits_unless_nothing_of_its_image_is_left() -> None:
    splits = frames()
    assert splits.streams is not None
    elsewhere = {image.numpy().tobytes() for part in (splits.train, splits.calibration) for image in pixels(part)}
    twice = torch.tensor([image.numpy().tobytes() in elsewhere for image in pixels(splits.test)])
    assert twice.float().mean() < 0.01
    assert set(splits.streams.kinds[twice].tolist()) <= {OCCLUSION}


def test_streams_are_bounded_with_classes_in_proportion() -> None:
    splits = frames("streams=100, length=3")
    assert (len(splits.test), len(splits.calibration)) == (300, 300)
    counts = splits.test.labels.bincount() / 3
    assert counts.sum() == 100
    assert bool(((counts - 10).abs() <= 1).all())


def test_more_frames_of_an_image_cost_no_more_steps() -> None:
    digits, double, triple = (DATASETS.create(s) for s in ("digits", "frames", "frames(train_copies=3)"))
    assert (double.quick_epochs, triple.quick_epochs) == (digits.quick_epochs // 2, math.ceil(digits.quick_epochs / 3))
    assert digits.quick_epochs % 2 == 0
    assert double.default_backbone == digits.default_backbone
    fashion = DATASETS.create('frames(source="fashion_mnist")')
    assert (fashion.quick_epochs, fashion.standard_epochs) == (2, 15)


def test_a_source_brings_its_channels_and_size() -> None:
    splits = frames('source="shapes(images=60, channels=3)", length=2')
    source = load(DATASETS.create("shapes(images=60, channels=3)"))
    assert (splits.in_channels, splits.image_size) == (source.in_channels, source.image_size)
    assert splits.class_names == source.class_names


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ('source="frames"', "has frames already"),
        ('source="frames(length=2)"', "has frames already"),
        ("mildest=0.9, worst=0.8", "mildest=0.9 is above worst=0.8"),
        ("bad=1.5", "bad=1.5 is above 1.0"),
        ("length=0", "length=0 is below 1"),
    ],
)
def test_what_makes_no_sense_is_refused_in_one_line(options: str, message: str) -> None:
    with pytest.raises(InvalidValue, match=message) as caught:
        DATASETS.create(f"frames({options})")
    assert "\n" not in str(caught.value)


def test_an_unknown_source_is_named() -> None:
    with pytest.raises(UnknownName, match="nothing_like_it"):
        DATASETS.create('frames(source="nothing_like_it")')


def test_files_are_refused(tmp_path: Path) -> None:
    from PIL import Image

    for part in ("train", "val"):
        for label in ("a", "b"):
            (tmp_path / part / label).mkdir(parents=True)
            for number in range(4):
                Image.new("RGB", (8, 8), (number, 0, 0)).save(tmp_path / part / label / f"{number}.png")
    with pytest.raises(InvalidValue, match="keeps its images in files") as caught:
        load(DATASETS.create('frames(source="imagenet(size=32)")'), tmp_path)
    assert "\n" not in str(caught.value)


def some(count: int = 6, channels: int = 2, side: int = 12) -> Tensor:
    return torch.rand(count, channels, side, side, generator=torch.Generator().manual_seed(0))


def flawed(images: Tensor, kind: int, severity: float) -> Tensor:
    count = len(images)
    return degrade(images, torch.full((count,), kind), torch.full((count,), severity), generator(1))


def test_a_clean_frame_stays_as_it_is() -> None:
    assert torch.equal(flawed(some(), CLEAN, 0.0), some())


def test_each_frame_gets_its_own_flaw() -> None:
    images = some(5)
    mixed = degrade(images, torch.arange(5), torch.full((5,), 0.8), generator(1))
    assert torch.equal(mixed[CLEAN], images[CLEAN])
    assert torch.allclose(mixed[BLUR], flawed(images, BLUR, 0.8)[BLUR])
    assert all(not torch.allclose(mixed[kind], images[kind], atol=0.02) for kind in (BLUR, NOISE, DARK, OCCLUSION))


@pytest.mark.parametrize("severity", [0.1, 0.2])
def test_blur_is_torchvisions_away_from_the_border(severity: float) -> None:
    images = some(side=40)
    width = severity * 0.25 * 40
    peer = gaussian_blur(images, [33, 33], [width, width])
    inner = slice(16, 24)
    assert torch.allclose(flawed(images, BLUR, severity)[..., inner, inner], peer[..., inner, inner], atol=1e-3)


def test_blur_keeps_an_even_image() -> None:
    even = torch.full((2, 1, 8, 8), 0.3)
    assert torch.allclose(flawed(even, BLUR, 1.0), even)


@pytest.mark.parametrize("severity", [0.5, 1.0])
def test_dark_takes_light_and_leaves_the_sensors_noise(severity: float) -> None:
    dark = flawed(torch.full((50, 1, 12, 12), 0.8), DARK, severity)
    light = 0.8 * (1 - DARKNESS * severity)
    assert dark.median() == pytest.approx(light, abs=0.01)
    if light > 3 * READ_NOISE:  # else the noise is cut off at black
        assert dark.std() == pytest.approx(READ_NOISE, rel=0.05)


@pytest.mark.parametrize("severity", [0.2, 0.4])
def test_noise_has_its_deviation(severity: float) -> None:
    noisy = flawed(torch.full((200, 1, 12, 12), 0.5), NOISE, severity)
    unclipped = 0.5 + 0.7 * severity * torch.randn(200_000, generator=torch.Generator().manual_seed(3))
    assert noisy.std() == pytest.approx(float(unclipped.clamp(0, 1).std()), rel=0.03)


@pytest.mark.parametrize("severity", [0.3, 0.5, 1.0])
def test_occlusion_covers_its_share_with_one_grey(severity: float) -> None:
    images = some(count=40, side=48)
    hidden = flawed(images, OCCLUSION, severity)
    changed = (hidden != images).all(1)  # (N, H, W)
    assert changed.float().mean() == pytest.approx(0.9 * severity, abs=0.03)
    for frame, where in zip(hidden, changed, strict=True):
        rows, columns = where.any(1).nonzero(), where.any(0).nonzero()
        assert where.sum() == len(rows) * len(columns)  # a rectangle
        assert len(frame[:, where].unique()) == 1


def test_jitter_moves_by_a_little_and_lights_by_a_little() -> None:
    images = torch.zeros(300, 1, 28, 28)
    images[:, :, 14, 14] = 0.5
    moved = jitter(images, generator(2))
    values, places = moved.flatten(1).max(1)
    down, right = places // 28 - 14, places % 28 - 14
    assert set(down.tolist()) == set(right.tolist()) == {-2, -1, 0, 1, 2}
    assert 0.5 * 0.85 - 1e-6 <= float(values.min()) < 0.45 < 0.55 < float(values.max()) <= 0.5 * 1.15 + 1e-6


def test_other_data_sets_have_no_streams() -> None:
    assert load(DATASETS.create("digits")).streams is None
    pair = (some(), torch.zeros(6).long())
    assert in_memory(pair, pair, pair, ["a"], Augmentation()).streams is None
