"""Which networks of a setting are on the front of accuracy and cost, how surely, and what methods add to static nets.

All of it from resampled accuracies: the test images are drawn again with replacement, the same ones for all networks,
and to each network's mean over its seeds is added what means over so many seeds vary by (`Spread`). Times are drawn
from their intervals, as log-normal.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dyncomp.report.controls import Network, Setting
from dyncomp.samples import Interval, t95
from dyncomp.samples.intervals import Z95

SAMPLES = 1000
SEED = 0
DIGITS = 6
"""of a percentage; what is beyond them is rounding"""


@dataclass(frozen=True)
class Pareto:
    """`on_front`: by spec, the share of the samples in which no network is as good in both and better in one.

    `hypervolume`: by spec of a method, by how many percent of the static networks' own area it widens it, with a 95 %
    interval. The area lies between the accuracies of a front and the lowest static one, over the logarithm of cost up
    to the dearest static one (Zitzler and Thiele 1999); what a method adds is never below 0.
    """

    on_front: Mapping[str, float]
    hypervolume: Mapping[str, Interval]


def pareto(setting: Setting, accuracies: Mapping[str, Any], batch_size: int | None = None) -> Pareto:
    """Of the networks of `resampled_accuracies` whose cost is known, by multiply-adds or by time (`Setting.costs`)."""
    import numpy as np

    costs = setting.costs(batch_size)
    specs = [spec for spec in accuracies if spec in costs]
    if len(specs) < 2:
        return Pareto({}, {})
    accuracy = np.stack([accuracies[spec] for spec in specs], axis=1)  # (S, K)
    cost = np.log2([costs[spec] for spec in specs]) + np.zeros_like(accuracy)  # (S, K)
    if batch_size is not None:
        gains = [setting.gains[batch_size][spec] for spec in specs]
        widths = np.array([math.log2(gain.high / gain.low) / (2 * Z95) for gain in gains])
        cost = cost + widths * np.random.default_rng(SEED).standard_normal(cost.shape)
    order = np.lexsort((-accuracy, cost))  # of equal costs the most accurate first
    ordered = np.take_along_axis(accuracy, order, 1)
    before = np.maximum.accumulate(ordered, axis=1)[:, :-1]
    on_front = np.empty(ordered.shape, dtype=bool)
    np.put_along_axis(on_front, order, np.c_[np.ones(len(ordered), dtype=bool), ordered[:, 1:] > before], 1)
    shares = dict(zip(specs, map(float, on_front.mean(0)), strict=True))
    rungs = {rung.spec for rung in setting.rungs}
    static = [place for place, spec in enumerate(specs) if spec in rungs]
    if len(static) < 2:
        return Pareto(shares, {})
    lowest, dearest = accuracy[:, static].min(1), cost[:, static].max(1)
    own = _area(cost[:, static], accuracy[:, static], lowest, dearest)
    added = dict[str, Interval]()
    if not own.any():  # where the cheapest is the best of them, there is no area to compare with
        return Pareto(shares, added)
    for place, spec in enumerate(specs):
        if place not in static:
            whole = _area(cost[:, [*static, place]], accuracy[:, [*static, place]], lowest, dearest)
            low, middle, high = np.percentile(100 * (whole - own) / own.mean(), [2.5, 50, 97.5]).round(DIGITS)
            added[spec] = Interval(float(low), float(middle), float(high))
    return Pareto(shares, added)


def resampled_accuracies(setting: Setting) -> dict[str, Any]:
    """Percent of right answers of each static network and method in every sample, (S,), by spec.

    None of them where test images are not known, or are not the same for all.
    """
    import numpy as np

    roles = dict(zip(setting.rows["spec"], setting.rows["role"], strict=True))
    rungs = {rung.spec for rung in setting.rungs}
    networks = [own for spec, own in setting.networks.items() if spec in rungs or roles[spec] == "method"]
    right = _right(setting, networks)
    if right is None:
        return {}
    draw, images = np.random.default_rng(SEED), right.shape[1]
    drawn = draw.multinomial(images, np.full(images, 1 / images), SAMPLES)  # (S, N): how often an image is drawn
    accuracy = 100 * drawn.astype(float) @ right.T / images  # (S, K)
    if setting.spread.degrees:
        scale = t95(setting.spread.degrees) / Z95 * setting.spread.deviation
        by_seeds = [scale / math.sqrt(len(network.keys)) for network in networks]
        accuracy = accuracy + np.array(by_seeds) * draw.standard_normal(accuracy.shape)
    return dict(zip((network.spec for network in networks), accuracy.T, strict=True))


def _right(setting: Setting, networks: Sequence[Network]) -> Any:
    """Of each network and test image, the share of its seeds that answer it rightly, (K, N); None: not known."""
    import numpy as np

    rows, labels = [], None
    for network in networks:
        frames = [setting.reading.images(key) for key in network.keys.values()]
        for frame in frames:
            known = None if frame is None else frame["label"].to_numpy()
            if known is None or (labels is not None and not np.array_equal(labels, known)):
                return None
            labels = known
        right = [(frame["prediction"] == frame["label"]).to_numpy(dtype=float) for frame in frames if frame is not None]
        rows.append(np.mean(right, axis=0))
    return np.stack(rows) if rows else None


def _area(cost: Any, accuracy: Any, lowest: Any, dearest: Any) -> Any:
    """Points times octaves between the front of (S, K) networks and `lowest`, up to `dearest`, both (S,)."""
    import numpy as np

    order = np.argsort(cost, axis=1, kind="stable")
    at = np.minimum(np.take_along_axis(cost, order, 1), dearest[:, None])
    best = np.maximum.accumulate(np.take_along_axis(accuracy, order, 1), axis=1)
    until = np.c_[at[:, 1:], dearest]
    return (np.maximum(best - lowest[:, None], 0) * (until - at)).sum(1)
