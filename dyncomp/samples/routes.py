"""What decisions say of images: how many routes are in use, whether they follow the class, whether two networks agree.

Decisions are (N, U) bool: for N images, whether each of U units runs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

PERMUTATIONS = 499
"""of the labels; the least p-value is 1 / 500"""
AT_ONCE = 20_000_000
"""numbers in the largest array of a permutation test"""


@dataclass(frozen=True)
class ClassInformation:
    """The mutual information of each unit's decision with the class in bits, (U,), and the chance of as much in all."""

    bits: tuple[float, ...]
    p_value: float


def class_information(decisions: Any, labels: Any, seed: int = 0) -> ClassInformation:
    """Whether decisions (N, U) follow the labels (N,), by a permutation test over all units together.

    The statistic is the sum over the units of the mutual information in the shares that were counted. Those shares
    overstate it, by about (classes - 1) / (2 N ln 2) bits where there is none; so `bits` is less its mean over permuted
    labels, and may come out a little below 0. A permutation keeps how the units hang together. p-value: Phipson and
    Smyth 2010, which counts the labels as they are as one of the permutations; 1 where no decision varies.
    """
    import numpy as np

    decisions, labels = np.asarray(decisions, dtype=bool), np.unique(labels, return_inverse=True)[1]
    varying = decisions.any(0) & ~decisions.all(0)  # (U,)
    if not varying.any() or labels.max() == 0:
        return ClassInformation((0.0,) * decisions.shape[1], 1.0)
    on = decisions[:, varying].T.astype(np.float32)  # (V, N): counts up to 2**24 are exact
    images, classes = len(labels), int(labels.max()) + 1
    of_class = np.bincount(labels, minlength=classes)  # (C,)
    one_hot = np.eye(classes, dtype=np.float32)[labels]  # (N, C)
    counted = _information(on @ one_hot, of_class)  # (V,)
    draw, permuted = np.random.default_rng(seed), []
    several = max(1, AT_ONCE // (images * classes))
    for start in range(0, PERMUTATIONS, several):
        orders = [draw.permutation(images) for _ in range(min(several, PERMUTATIONS - start))]
        together = np.concatenate([one_hot[order] for order in orders], axis=1)  # (N, P * C)
        permuted.append(_information((on @ together).reshape(len(on), -1, classes), of_class))  # (V, P)
    by_chance = np.concatenate(permuted, axis=1)  # (V, PERMUTATIONS)
    as_much = int((by_chance.sum(0) >= counted.sum() - 1e-12).sum())
    bits = np.zeros(decisions.shape[1])
    bits[varying] = counted - by_chance.mean(1)
    return ClassInformation(tuple(map(float, bits)), (1 + as_much) / (1 + PERMUTATIONS))


def _information(on: Any, of_class: Any) -> Any:
    """Bits, (...), from how many images of each class a unit runs for, (..., C), and how many there are, (C,)."""
    import numpy as np
    from scipy.special import xlogy

    whole = of_class.sum()
    rate = on.sum(-1) / whole
    shares, apart = on / whole, (of_class - on) / whole
    joint = (xlogy(shares, shares) + xlogy(apart, apart)).sum(-1)
    alone = xlogy(rate, rate) + xlogy(1 - rate, 1 - rate) + xlogy(of_class / whole, of_class / whole).sum()
    return (joint - alone) / np.log(2)


def effective_number(counts: Sequence[int]) -> float:
    """How many equally frequent kinds are as varied as kinds with these counts: 2 to their entropy in bits (Hill 1973).

    Of the counts as they are: too small where most kinds were seen once.
    """
    import numpy as np

    shares = np.asarray(counts, dtype=float) / sum(counts)
    return float(np.exp(-(shares * np.log(shares)).sum()))


def agreement(first: Any, second: Any) -> float | None:
    """Cohen's kappa (1960) of two networks' decisions (N, U) about the same images, over all units.

    1: the same decisions; 0: as many as two networks with these rates have in common by chance. None where neither
    has a decision that varies.
    """
    import numpy as np

    first, second = np.asarray(first, dtype=bool), np.asarray(second, dtype=bool)
    same = float((first == second).mean(0).sum())
    one, other = first.mean(0), second.mean(0)
    by_chance = float((one * other + (1 - one) * (1 - other)).sum())
    beyond = first.shape[1] - by_chance
    return None if beyond < 1e-12 else (same - by_chance) / beyond
