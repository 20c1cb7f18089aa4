"""Which image belongs to which split: decided by content, so that no library can move one."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor

from dyncomp.errors import InvalidValue

SPLIT_SEED = 0
Indices = npt.NDArray[np.int64]
Fingerprints = npt.NDArray[np.uint64]


def fingerprints(images: Tensor, seed: int = SPLIT_SEED) -> Fingerprints:
    """(N,) a 64-bit hash of each image (N, ...): equal for equal ones, else as good as random."""
    return _hashed(images.contiguous().flatten(1).numpy(), seed)


def file_fingerprints(files: Sequence[str]) -> Fingerprints:
    """(N,) a 64-bit hash of each file's name and its folder's, wherever they lie."""
    return _hashed(["/".join(Path(file).parts[-2:]).encode() for file in files], SPLIT_SEED)


def _hashed(rows: Iterable[Any], seed: int) -> Fingerprints:
    salt = str(seed).encode()
    digests = b"".join(blake2b(row, digest_size=8, key=salt).digest() for row in rows)
    return np.frombuffer(digests, dtype="<u8").astype(np.uint64)


def distinct(prints: Fingerprints, elsewhere: Fingerprints) -> Indices:
    """Positions, in order, of the images that copy no earlier one and none `elsewhere`."""
    _, first = np.unique(prints, return_index=True)
    first = np.sort(first)
    return np.asarray(first[~np.isin(prints[first], elsewhere)], dtype=np.int64)


def stratified_order(labels: Tensor, prints: Fingerprints) -> Indices:
    """(N,) an order, random as the fingerprints, whose beginnings hold the classes in proportion.

    The k-th of a class's n images, in the order of the fingerprints, stands at (k + 1/2) / n of the
    whole.
    """
    classes = labels.numpy()
    place = np.empty(len(classes))
    for label in np.unique(classes):
        members = np.flatnonzero(classes == label)
        members = members[np.argsort(prints[members], kind="stable")]
        place[members] = (np.arange(len(members)) + 0.5) / len(members)
    return np.lexsort((prints, place))


def hold_out(images: Tensor, labels: Tensor, count: int, test: Tensor) -> tuple[Indices, Indices]:
    """Positions, in order, of the train and of `count` calibration images among `images`.

    Copies of an image, and of a test image, are left out: no image may be in two splits.
    """
    prints = fingerprints(images)
    kept = distinct(prints, fingerprints(test))
    order = kept[stratified_order(labels[kept], prints[kept])]
    return np.sort(order[count:]), np.sort(order[:count])


def subset(name: str, images: Tensor, labels: Tensor, limit: int | None, seed: int) -> tuple[Tensor, Tensor]:
    """`limit` of the images and labels, classes in proportion, drawn by `seed`; None is all."""
    if limit is None:
        return images, labels
    if limit > len(images):
        raise InvalidValue(f"{name}: limit={limit} is above its {len(images)} train images; give a smaller one")
    chosen = np.sort(stratified_order(labels, fingerprints(images, seed))[:limit])
    return images[chosen], labels[chosen]
