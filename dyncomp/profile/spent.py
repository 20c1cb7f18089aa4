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
from dyncomp.samples import Z95, t95
from dyncomp.store.schema import ClassRecord, IntervalRecord, Spending

Numbers = npt.NDArray[Any]


def spending(test: Evaluation, class_names: Sequence[str], difficulty: Numbers | None) -> Spending:
    """All figures of a split; `difficulty` (N,) is known of some data sets only."""
    macs, labels = test.macs.numpy(), test.labels.numpy()
    right = labels == test.predictions.numpy()
    return {
        **distribution(macs),
        **by_answer(macs, right),
        "macs_by_class": by_class(macs, labels, right, class_names),
        **({} if difficulty is None else by_difficulty(macs, difficulty)),
    }


def distribution(macs: Numbers) -> Spending:
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


def by_class(macs: Numbers, labels: Numbers, right: Numbers, class_names: Sequence[str]) -> list[ClassRecord]:
    """A row per class that has images: its name, how many, mean MACs and FLOPs, top-1 in percent."""
    rows: list[ClassRecord] = []
    for label, name in enumerate(class_names):
        members = labels == label
        if members.any():
            mean = float(macs[members].mean())
            top1 = 100 * float(right[members].mean())
            rows.append({"class": name, "images": int(members.sum()), "macs": mean, "flops": 2 * mean, "top1": top1})
    return rows


def by_answer(macs: Numbers, right: Numbers) -> Spending:
    """Mean MACs of the images answered rightly and wrongly, None of none; and wrong less right, in MACs.

    The 95 % interval is Welch's (1947): two means of unlike variance. None where a side has fewer than two images.
    """
    return {
        "macs_right": float(macs[right].mean()) if right.any() else None,
        "macs_wrong": float(macs[~right].mean()) if not right.all() else None,
        "macs_wrong_less_right": _difference(macs[~right], macs[right]),
    }


def _difference(one: Numbers, other: Numbers) -> IntervalRecord | None:
    if min(len(one), len(other)) < 2:
        return None
    mean = float(one.mean() - other.mean())
    parts = [float(side.var(ddof=1)) / len(side) for side in (one, other)]
    variance = sum(parts)
    if variance == 0:
        return {"mean": mean, "low": mean, "high": mean}
    weights = [part**2 / (len(side) - 1) for part, side in zip(parts, (one, other), strict=True)]
    half = t95(variance**2 / sum(weights)) * math.sqrt(variance)
    return {"mean": mean, "low": mean - half, "high": mean + half}


def by_difficulty(macs: Numbers, difficulty: Numbers) -> Spending:
    """Spearman's rank correlation (1904) of MACs with `difficulty` (N,), its 95 % interval and p-value.

    The interval is Fisher's z with the variance of Bonett and Wright (2000), (1 + r^2 / 2) / (N - 3). All None where
    one of the two never varies, or for fewer than four images: then there is nothing to rank.
    """
    r, low, high, p_value = _correlation(macs, difficulty) or (None,) * 4
    return {
        "macs_difficulty_rank_correlation": r,
        "macs_difficulty_rank_correlation_low": low,
        "macs_difficulty_rank_correlation_high": high,
        "macs_difficulty_rank_correlation_p_value": p_value,
    }


def _correlation(macs: Numbers, difficulty: Numbers) -> tuple[float, float, float, float] | None:
    from scipy.stats import spearmanr

    if len(macs) < 4 or np.ptp(macs) == 0 or np.ptp(difficulty) == 0:
        return None
    found = spearmanr(macs, difficulty)
    r = float(found.statistic)
    low = high = r
    if abs(r) < 1:
        half = Z95 * math.sqrt((1 + r**2 / 2) / (len(macs) - 3))
        low, high = math.tanh(math.atanh(r) - half), math.tanh(math.atanh(r) + half)
    return r, low, high, float(found.pvalue)
