"""Is a difference in accuracy more than the luck of the test images?"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from dyncomp.samples import Z95, t95

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Difference:
    """Accuracy of a method less that of static, in percentage points, with a 95 % margin."""

    points: float
    margin: float
    distinguishable: bool
    images: int
    paired: bool
    p_value: float | None = None
    """of the exact test, where that decided"""


def paired_difference(static: pd.DataFrame, method: pd.DataFrame) -> Difference | None:
    """From the same test images: McNemar's exact test (1947; binomial), Wald's paired margin.

    None where the two frames are not about the same images.
    """
    from scipy.stats import binomtest

    images = len(static)
    if not images or images != len(method) or (static["label"] != method["label"]).any():
        return None
    right_static = static["prediction"] == static["label"]
    right_method = method["prediction"] == method["label"]
    lost = int((right_static & ~right_method).sum())
    won = int((right_method & ~right_static).sum())
    differing = lost + won
    p_value = binomtest(lost, differing, 0.5).pvalue if differing else 1.0
    spread = math.sqrt(differing - (won - lost) ** 2 / images) / images
    points = 100 * (won - lost) / images
    return Difference(points, 100 * Z95 * spread, bool(p_value < 0.05), images, True, float(p_value))


def unpaired_difference(static: float, method: float, images: int) -> Difference:
    """From two accuracies in percent alone: the margin of two independent binomial shares."""
    margin = math.hypot(binomial_margin(static, images), binomial_margin(method, images))
    points = method - static
    return Difference(points, margin, abs(points) > margin, images, False)


def binomial_margin(percent: float, images: int) -> float:
    """95 % margin in points of an accuracy in percent; not zero at 0 % and 100 %.

    Agresti and Coull 1998: two successes and two failures are added.
    """
    share = (percent / 100 * images + 2) / (images + 4)
    return 100 * Z95 * math.sqrt(share * (1 - share) / (images + 4))


def chance(difference: Difference) -> float:
    """How likely so large a difference is where there is none: of the normal distribution that its margin is of."""
    if not difference.margin:
        return float(not difference.points)
    return math.erfc(abs(difference.points) / (difference.margin / Z95) / math.sqrt(2))


def over_seeds(differences: Sequence[Difference]) -> Difference:
    """One difference from one per seed, where there is no per-image data for `contrast`: the mean, the larger margin.

    Margins: Student's t over the seeds, and the images' own, as if more seeds told no more of them.
    """
    count = len(differences)
    if count == 1:
        return differences[0]
    values = [difference.points for difference in differences]
    mean = math.fsum(values) / count
    deviation = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (count - 1))
    by_seeds = t95(count - 1) * deviation / math.sqrt(count)
    by_images = math.fsum(difference.margin for difference in differences) / count
    margin = max(by_seeds, by_images)
    images = max(difference.images for difference in differences)
    paired = all(difference.paired for difference in differences)
    return Difference(mean, margin, abs(mean) > margin, images, paired)


@dataclass(frozen=True)
class Spread:
    """How much the accuracies of one network vary from seed to seed, in points, known by so many degrees of freedom."""

    deviation: float
    degrees: int

    @classmethod
    def of(cls, values: Sequence[Sequence[float]]) -> Spread:
        """Pooled over networks, each with the accuracies of its seeds: all are taken to vary alike."""
        squares, degrees = 0.0, 0
        for own in values:
            mean = math.fsum(own) / len(own)
            squares += math.fsum((value - mean) ** 2 for value in own)
            degrees += len(own) - 1
        return cls(math.sqrt(squares / degrees) if degrees else 0.0, degrees)

    def margin(self, weights: Sequence[float], seeds: int) -> float:
        """95 % margin in points of a weighted sum of means over so many seeds; 0 where no network has two seeds."""
        if not self.degrees:
            return 0.0
        weight = math.sqrt(math.fsum(weight**2 for weight in weights) / seeds)
        return t95(self.degrees) * self.deviation * weight


def contrast(seeds: Sequence[Sequence[tuple[float, pd.DataFrame | None]]], spread: Spread) -> Difference | None:
    """A weighted sum of the accuracies of networks in points, from the same test images; one list for each seed.

    Two margins go into the interval, as the root of the sum of their squares: that of the images, from the weighted
    sum of right answers of each image, mean over seeds; and that of the seeds (`Spread`). None without per-image data
    of the same images.
    """
    import numpy as np

    sums = []
    for networks in seeds:
        frames = [frame for _, frame in networks if frame is not None]
        if len(frames) < len(networks) or any(len(f) != len(frames[0]) for f in frames):
            return None
        if any((frame["label"].to_numpy() != frames[0]["label"].to_numpy()).any() for frame in frames):
            return None
        right = [(f["prediction"] == f["label"]).to_numpy(dtype=float) for f in frames]
        sums.append(sum(weight * one for (weight, _), one in zip(networks, right, strict=True)))
    if not sums or not len(sums[0]):
        return None
    each = np.mean(sums, axis=0)  # (N,)
    points, images = 100 * float(each.mean()), len(each)
    by_images = 100 * Z95 * float(each.std()) / math.sqrt(images)
    margin = math.hypot(by_images, spread.margin([weight for weight, _ in seeds[0]], len(seeds)))
    return Difference(points, margin, abs(points) > margin, images, True)
