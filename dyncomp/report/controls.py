"""What a method is held against beside static: static nets of equal cost, and its own gates replaced by rules."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from dyncomp.report import numbers as n
from dyncomp.report.front import front
from dyncomp.report.reading import Reading
from dyncomp.report.statistics import Difference, Spread, chance, contrast

if TYPE_CHECKING:
    import pandas as pd

RUNG = "ladder"
NEAR = 0.03
"""share of a method's multiply-adds by which a control may cost more, or less, without a word"""
CHANCE = {"fixed": "no better than fixed pruning", "random": "no better than random routes"}
OVER = ("static_at_equal_macs", *CHANCE)
"""what a method's accuracy is set against"""
SURE = 0.05
"""of `Setting.q_values`: below it, a difference is declared"""
BETTER = {"fixed": "better than fixed pruning", "random": "better than random routes"}


@dataclass(frozen=True)
class Network:
    """A network of a setting, all seeds of it: mean multiply-adds and accuracy, and the cells' keys by seed."""

    spec: str
    macs: float
    top1: float
    keys: Mapping[int, str]


@dataclass(frozen=True)
class Setting:
    """The cells of one data set, backbone, budget and device; `rows` are those of `results` that are ok."""

    rows: pd.DataFrame
    reading: Reading

    @cached_property
    def networks(self) -> dict[str, Network]:
        """All of them by spec."""
        cells = self.rows.drop_duplicates("key")
        return {
            str(spec): Network(
                str(spec), own["macs"].mean(), own["top1"].mean(), dict(zip(own["seed"], own["key"], strict=True))
            )
            for spec, own in cells.groupby("spec", sort=False)
        }

    @cached_property
    def front(self) -> list[Network]:
        """Static nets that no cheaper one equals in accuracy, the cheapest first."""
        return front(self._rungs, lambda rung: rung.top1)

    @cached_property
    def _rungs(self) -> list[Network]:
        """All static nets, the cheapest first."""
        cells = self.rows[(self.rows["role"] == "static") | (self.rows["method"] == RUNG)]
        return sorted((self.networks[spec] for spec in cells["spec"].unique()), key=lambda one: (one.macs, -one.top1))

    def static_at(self, macs: float) -> tuple[float, float] | None:
        """Accuracy of static nets at that cost, between two rungs by the logarithm of it, and the share of the upper.

        None beyond the ends of the ladder.
        """
        found = self._between(macs)
        if found is None:
            return None
        low, high, share = found
        return (1 - share) * low.top1 + share * high.top1, share

    def _between(self, macs: float) -> tuple[Network, Network, float] | None:
        for low, high in pairwise(self.front):
            if low.macs <= macs <= high.macs:
                return low, high, math.log(macs / low.macs) / math.log(high.macs / low.macs)
        if self.front and self.front[-1].macs <= macs <= self._rungs[-1].macs:  # dearer ones are no better
            return self.front[-1], self.front[-1], 0.0
        return None

    def over_static(self, spec: str) -> Difference | None:
        """By how much a network is better than static nets of equal cost; None where none are known."""
        own = self.networks[spec]
        found = self._between(own.macs)
        if found is None:
            return None
        low, high, share = found
        return self._contrast([(1.0, own), (share - 1, low), (-share, high)])

    def control(self, spec: str, method: str) -> Network | None:
        """The control of that method, `fixed` or `random`, of a network; None where there is none."""
        cells = self.rows[(self.rows["method"] == method) & (self.rows["control_of"] == spec)]
        return None if cells.empty else self.networks[str(cells["spec"].iloc[0])]

    def over(self, spec: str, other: Network) -> Difference | None:
        """By how much a network is better than another one; None where that cannot be told."""
        return self._contrast([(1.0, self.networks[spec]), (-1.0, other)])

    @cached_property
    def differences(self) -> dict[tuple[str, str], Difference]:
        """From `static_at_equal_macs`, `fixed` and `random`, of every method where it is known, by spec and name."""
        found: dict[tuple[str, str], Difference | None] = {}
        for spec in self.rows.loc[self.rows["role"] == "method", "spec"].unique():
            found[spec, "static_at_equal_macs"] = self.over_static(spec)
            for method in CHANCE:
                control = self.control(spec, method)
                found[spec, method] = None if control is None else self.over(spec, control)
        return {place: difference for place, difference in found.items() if difference is not None}

    @cached_property
    def q_values(self) -> dict[tuple[str, str], float]:
        """Of each of `differences`, the share of false ones among those that are as sure (Benjamini, Hochberg 1995).

        With many methods some are beyond a 95 % interval by chance; those with a value below 0.05 are so in 5 % of all.
        """
        from scipy.stats import false_discovery_control

        if not self.differences:
            return {}
        adjusted = false_discovery_control([chance(difference) for difference in self.differences.values()])
        return dict(zip(self.differences, (float(q) for q in adjusted), strict=True))

    def _contrast(self, weighted: Sequence[tuple[float, Network]]) -> Difference | None:
        seeds = set.intersection(*(set(network.keys) for _, network in weighted))
        frames = [
            [(weight, self.reading.images(network.keys[seed])) for weight, network in weighted]
            for seed in sorted(seeds)
        ]
        return contrast(frames, self.spread)

    @cached_property
    def spread(self) -> Spread:
        """How much accuracies of one network vary from seed to seed, of all networks of the setting together."""
        values = [list(own["top1"]) for _, own in self.rows.drop_duplicates("key").groupby("spec")]
        return Spread.of(values)


def settings(reading: Reading, frame: pd.DataFrame) -> Iterator[Setting]:
    """Those of a folder, in order."""
    done = frame[frame["status"] == "ok"]
    for _, rows in done.groupby(["dataset", "backbone", "budget", "device"], sort=False, dropna=False):
        yield Setting(rows, reading)


def columns(setting: Setting, spec: str) -> dict[str, Any]:
    """What `results.csv` says of a method's controls; empty for what has none."""
    found: dict[str, Any] = {}
    at = setting.static_at(setting.networks[spec].macs)
    if at is not None:
        found["static_top1_at_equal_macs"] = at[0]
    for method in CHANCE:
        control = setting.control(spec, method)
        if control is not None:
            found[f"{method}_top1"], found[f"{method}_macs"] = control.top1, control.macs
    for name in OVER:
        if difference := setting.differences.get((spec, name)):
            found[f"over_{name}_points"], found[f"over_{name}_margin"] = difference.points, difference.margin
            found[f"over_{name}_q"] = setting.q_values[spec, name]
    return found


def clauses_of(setting: Setting, spec: str) -> Iterator[str]:
    """What the controls say of a method, for its sentence: its `columns`, which its rows hold, in words."""
    own = setting.rows[setting.rows["spec"] == spec].iloc[0]
    points, margin, q = (own[f"over_static_at_equal_macs_{what}"] for what in ("points", "margin", "q"))
    if q < SURE:
        size = f"{n.fixed(abs(points), 1)} ± {n.fixed(margin, 1)} points"
        yield f"{size} {'above' if points > 0 else 'below'} static nets of equal multiply-adds"
    elif not n.missing(points):
        yield f"{_signed(points, margin)}, not distinguishable from static nets of equal multiply-adds"
    for method in CHANCE:
        top1, points, margin, q = (
            own[f"{method}_top1"],
            *(own[f"over_{method}_{of}"] for of in ("points", "margin", "q")),
        )
        if n.missing(top1):
            continue
        word = (BETTER if points > 0 and q < SURE else CHANCE)[method]
        cost = own[f"{method}_macs"] / setting.networks[spec].macs
        at = "" if abs(cost - 1) <= NEAR else f" at {n.fixed(100 * cost, 0, ' %')} of its multiply-adds"
        by = "" if n.missing(points) else f", {_signed(points, margin)}"
        yield f"{word} ({n.percent(top1)}{at}{by})"


def _signed(points: float, margin: float) -> str:
    return f"{n.points(points)} ± {n.fixed(margin, 1)} points"
