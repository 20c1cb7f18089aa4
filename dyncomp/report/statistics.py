"""Is a difference in accuracy more than the luck of the test images?"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd

Z95 = 1.959963984540054


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


def over_seeds(differences: Sequence[Difference]) -> Difference:
    """One difference from one per seed: the mean, with the larger of two margins.

    Margins: Student's t over the seeds, and the images' own, as if more seeds told no more of them.
    """
    from scipy.stats import t

    count = len(differences)
    if count == 1:
        return differences[0]
    values = [difference.points for difference in differences]
    mean = math.fsum(values) / count
    deviation = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (count - 1))
    by_seeds = float(t.ppf(0.975, count - 1)) * deviation / math.sqrt(count)
    by_images = math.fsum(difference.margin for difference in differences) / count
    margin = max(by_seeds, by_images)
    images = max(difference.images for difference in differences)
    paired = all(difference.paired for difference in differences)
    return Difference(mean, margin, abs(mean) > margin, images, paired)
