"""Which image belongs to which split."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
import torch

from dyncomp.data import load
from dyncomp.data.splitting import (
    distinct,
    file_fingerprints,
    fingerprints,
    hold_out,
    stratified_order,
    subset,
)
from dyncomp.errors import InvalidValue
from dyncomp.registry import DATASETS


def images_of(values: list[int]) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.uint8).view(-1, 1, 1, 1).expand(-1, 1, 3, 3)


def test_equal_images_have_equal_fingerprints_and_others_not() -> None:
    prints = fingerprints(images_of([3, 1, 3, 2]))
    assert prints[0] == prints[2]
    assert len(set(prints.tolist())) == 3
    assert not set(prints.tolist()) & set(fingerprints(images_of([1, 2, 3]), seed=1).tolist())


def test_file_fingerprints_do_not_depend_on_where_the_data_lies() -> None:
    here, there, other = file_fingerprints(["/a/n01/x.jpg", "/b/c/n01/x.jpg", "/a/n02/x.jpg"]).tolist()
    assert here == there != other


def test_distinct_keeps_the_first_of_each_that_is_not_elsewhere() -> None:
    prints = np.array([5, 3, 5, 9, 3, 1], dtype=np.uint64)
    assert distinct(prints, np.array([9, 7], dtype=np.uint64)).tolist() == [0, 1, 5]


def test_every_beginning_holds_the_classes_in_proportion() -> None:
    labels = torch.tensor([0] * 60 + [1] * 30 + [2] * 10)
    order = stratified_order(labels, np.random.default_rng(0).permutation(100).astype(np.uint64))
    assert sorted(order.tolist()) == list(range(100))
    for stop in range(1, 101):
        counts = labels[order[:stop]].bincount(minlength=3)
        expected = torch.tensor([0.6, 0.3, 0.1]) * stop
        assert (counts - expected).abs().max() <= 1


def test_the_order_follows_the_content_not_the_position() -> None:
    images, labels = torch.arange(40, dtype=torch.uint8).view(40, 1, 1, 1), torch.arange(40) % 4
    shuffle = torch.randperm(40, generator=torch.Generator().manual_seed(0))
    order = stratified_order(labels, fingerprints(images))
    again = stratified_order(labels[shuffle], fingerprints(images[shuffle]))
    assert order.tolist() == shuffle[again].tolist()


def test_held_out_images_have_no_copy_in_train_or_test() -> None:
    images = images_of([*range(50), 7, 7, 8, 60, 61])
    train, held = hold_out(images, torch.arange(55) % 2, 10, test=images_of([60, 61, 62]))
    assert len(held) == 10
    values = images[np.concatenate([train, held])][:, 0, 0, 0].tolist()
    assert sorted(values) == list(range(50))


def test_a_subset_keeps_the_classes_in_proportion_and_follows_its_seed() -> None:
    images, labels = torch.arange(200, dtype=torch.uint8).view(200, 1, 1, 1), torch.arange(200) % 4
    kept, kept_labels = subset("x", images, labels, 40, seed=0)
    assert kept_labels.bincount().tolist() == [10, 10, 10, 10]
    assert torch.equal(labels[kept.flatten().long()], kept_labels)
    assert torch.equal(kept, subset("x", images, labels, 40, seed=0)[0])
    assert not torch.equal(kept, subset("x", images, labels, 40, seed=1)[0])
    assert subset("x", images, labels, None, seed=0)[0] is images


def test_more_than_there_is_cannot_be_kept() -> None:
    with pytest.raises(InvalidValue, match="x: limit=3 is above its 2 train images"):
        subset("x", torch.zeros(2, 1), torch.zeros(2), 3, seed=0)


def test_the_digits_of_each_split_never_change() -> None:
    """Results of different versions are compared on the same images: this pins which ones."""
    splits = load(DATASETS.create("digits"))
    for split, count, expected in [
        (splits.train, 1079, "8bac56bdec406574"),
        (splits.calibration, 359, "4eb9b599b8efb552"),
        (splits.test, 359, "cfa8eb08c6ad60d2"),
    ]:
        pixels = next(iter(split.batches(2000))).images * splits.std[0] + splits.mean[0]
        grey = (pixels * 16).round().to(torch.uint8)
        assert len(split) == count
        assert hashlib.sha256(grey.numpy().tobytes()).hexdigest()[:16] == expected
