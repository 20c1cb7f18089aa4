"""Where a network spends its multiply-adds: over all images, by class, by right and wrong answers, by difficulty.

Plain numbers, ready for JSON. MACs, one per multiply-add; `flops = 2 * macs`. No torch but the tensors handed in.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from dyncomp.profile.evaluation import Evaluation
from dyncomp.samples import Z95

Numbers = npt.NDArray[Any]


def spending(test: Evaluation, class_names: Sequence[str], difficulty: Numbers | None) -> dict[str, Any]:
    """All figures of a split; `difficulty` (N,) is known of some data sets only."""
    macs, labels = test.macs.numpy(), test.labels.numpy()
    right = labels == test.predictions.numpy()
    return {
        **distribution(macs),
        **by_answer(macs, right),
        "macs_by_class": by_class(macs, labels, right, class_names),
        **({} if difficulty is None else by_difficulty(macs, difficulty)),
    }


def distribution(macs: Numbers) -> dict[str, Any]:
    """Mean, standard deviation, percentiles and maximum of `macs` (N,)."""
    p5, p50, p95 = np.percentile(macs, [5, 50, 95]).tolist()
    return {
        "macs": float(macs.mean()),
        "macs_std": float(macs.std()),
        "macs_p5": p5,
        "macs_p50": p50,
        "macs_p95": p95,
        "macs_max": int(macs.max()),
    }


def by_class(macs: Numbers, labels: Numbers, right: Numbers, class_names: Sequence[str]) -> list[dict[str, Any]]:
    """A row per class that has images: its name, how many, mean MACs and FLOPs, top-1 in percent."""
    rows = []
    for label, name in enumerate(class_names):
        members = labels == label
        if members.any():
            mean = float(macs[members].mean())
            top1 = 100 * float(right[members].mean())
            rows.append({"class": name, "images": int(members.sum()), "macs": mean, "flops": 2 * mean, "top1": top1})
    return rows


def by_answer(macs: Numbers, right: Numbers) -> dict[str, Any]:
    """Mean MACs of the images answered rightly and wrongly, None of none; and wrong less right, in MACs.

    The 95 % interval is Welch's (1947): two means of unlike variance. None where a side has fewer than two images.
    """
    sides = {"macs_right": macs[right], "macs_wrong": macs[~right]}
    means = {name: float(side.mean()) if len(side) else None for name, side in sides.items()}
    return means | {"macs_wrong_less_right": _difference(macs[~right], macs[right])}


def _difference(one: Numbers, other: Numbers) -> dict[str, float] | None:
    from scipy.stats import t

    if min(len(one), len(other)) < 2:
        return None
    mean = float(one.mean() - other.mean())
    parts = [float(side.var(ddof=1)) / len(side) for side in (one, other)]
    variance = sum(parts)
    if variance == 0:
        return {"mean": mean, "low": mean, "high": mean}
    weights = [part**2 / (len(side) - 1) for part, side in zip(parts, (one, other), strict=True)]
    half = float(t.ppf(0.975, variance**2 / sum(weights))) * math.sqrt(variance)
    return {"mean": mean, "low": mean - half, "high": mean + half}


def by_difficulty(macs: Numbers, difficulty: Numbers) -> dict[str, Any]:
    """Spearman's rank correlation (1904) of MACs with `difficulty` (N,), its 95 % interval and p-value.

    The interval is Fisher's z with the variance of Bonett and Wright (2000), (1 + r^2 / 2) / (N - 3). All None where
    one of the two never varies, or for fewer than four images: then there is nothing to rank.
    """
    from scipy.stats import spearmanr

    names = ("", "_low", "_high", "_p_value")
    keys = [f"macs_difficulty_rank_correlation{name}" for name in names]
    if len(macs) < 4 or np.ptp(macs) == 0 or np.ptp(difficulty) == 0:
        return dict.fromkeys(keys)
    found = spearmanr(macs, difficulty)
    r = float(found.statistic)
    low, high = _interval(r, len(macs))
    return dict(zip(keys, (r, low, high, float(found.pvalue)), strict=True))


def _interval(r: float, images: int) -> tuple[float, float]:
    if abs(r) >= 1:
        return r, r
    half = Z95 * math.sqrt((1 + r**2 / 2) / (images - 3))
    return math.tanh(math.atanh(r) - half), math.tanh(math.atanh(r) + half)
