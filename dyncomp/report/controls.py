"""What a method is held against beside static: static nets of equal cost, and its own gates replaced by rules."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise
from typing import TYPE_CHECKING, Any, NamedTuple

from dyncomp.report import numbers as n
from dyncomp.report.front import front
from dyncomp.report.reading import Reading
from dyncomp.report.statistics import Difference, Spread, chance, contrast
from dyncomp.samples import Interval, is_invalid

if TYPE_CHECKING:
    import pandas as pd

RUNG = "ladder"
NEAR = 0.03
"""share of a method's multiply-adds by which a control may cost more, or less, without a word"""
CHANCE = {"fixed": "no better than fixed pruning", "random": "no better than random routes"}
OVER = ("static_at_equal_macs", "static_at_equal_latency", *CHANCE)
"""what a method's accuracy is set against; the second at each batch size"""
SURE = 0.05
"""of `Setting.q_values`: below it, a difference is declared"""
Place = tuple[str, str, int | None]
"""of a difference: a method's spec, what it is set against (`OVER`), and the batch size, where there is one"""
BETTER = {"fixed": "better than fixed pruning", "random": "better than random routes"}


@dataclass(frozen=True)
class Network:
    """A network of a setting, all seeds of it: mean multiply-adds and accuracy, and the cells' keys by seed."""

    spec: str
    macs: float
    top1: float
    keys: Mapping[int, str]


class Between(NamedTuple):
    """Where a cost lies on the ladder: two rungs of the front, the share of the upper, points by the log of cost."""

    low: Network
    high: Network
    share: float
    slope: float

    @property
    def top1(self) -> float:
        """The accuracy of static nets there, in percent."""
        return (1 - self.share) * self.low.top1 + self.share * self.high.top1


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
    def rungs(self) -> list[Network]:
        """The static networks: the plain backbone and the ladder's."""
        cells = self.rows[(self.rows["role"] == "static") | (self.rows["method"] == RUNG)]
        return [self.networks[spec] for spec in cells["spec"].unique()]

    @cached_property
    def batch_sizes(self) -> list[int]:
        """Those that were timed, the smallest first."""
        return sorted(int(size) for size in self.rows["batch_size"].dropna().unique())

    @cached_property
    def gains(self) -> dict[int, dict[str, Interval]]:
        """By batch size, how much faster than static each network is: of all seeds, if every ratio is VALID."""
        found: dict[int, dict[str, Interval]] = {size: {} for size in self.batch_sizes}
        for (size, spec), own in self.rows.groupby(["batch_size", "spec"], sort=False):
            if own["speedup_realised"].notna().all() and not own["speedup_verdict"].map(is_invalid).any():
                low, high = own["speedup_realised_low"].min(), own["speedup_realised_high"].max()
                gain = Interval(float(low), float(own["speedup_realised"].mean()), float(high))
                found[int(size)][str(spec)] = gain
        return found

    def costs(self, batch_size: int | None = None) -> dict[str, float]:
        """Of each network: multiply-adds; or the time at a batch size, as a share of static's, where that is known."""
        if batch_size is None:
            return {spec: network.macs for spec, network in self.networks.items()}
        return {spec: 1 / gain.middle for spec, gain in self.gains[batch_size].items()}

    def static_at(self, spec: str, batch_size: int | None = None) -> Between | None:
        """Static nets of a network's cost, between two rungs by the logarithm of it; see `costs`.

        None beyond the ends of the ladder, and where the cost of fewer than two rungs is known.
        """
        costs = self.costs(batch_size)
        rungs = [rung for rung in self.rungs if rung.spec in costs]
        rungs.sort(key=lambda rung: (costs[rung.spec], -rung.top1))
        if spec not in costs or len(rungs) < 2:
            return None
        cost, ladder = costs[spec], front(rungs, lambda rung: rung.top1)
        for low, high in pairwise(ladder):
            below, above = costs[low.spec], costs[high.spec]
            if below <= cost <= above:
                whole = math.log(above / below)
                return Between(low, high, math.log(cost / below) / whole, (high.top1 - low.top1) / whole)
        if costs[ladder[-1].spec] <= cost <= costs[rungs[-1].spec]:  # dearer ones are no better
            return Between(ladder[-1], ladder[-1], 0.0, 0.0)
        return None

    def over_static(self, spec: str, batch_size: int | None = None) -> Difference | None:
        """By how much a network is better than static nets of equal cost; None where none are known.

        Of equal time: what is not known of the time moves the network along the ladder, and widens the interval.
        """
        found = self.static_at(spec, batch_size)
        if found is None:
            return None
        low, high, share, slope = found
        difference = self._contrast([(1.0, self.networks[spec]), (share - 1, low), (-share, high)])
        if difference is None or batch_size is None:
            return difference
        gain = self.gains[batch_size][spec]
        margin = math.hypot(difference.margin, slope * math.log(gain.high / gain.low) / 2)
        return replace(difference, margin=margin, distinguishable=abs(difference.points) > margin)

    def control(self, spec: str, method: str) -> Network | None:
        """The control of that method, `fixed` or `random`, of a network; None where there is none."""
        cells = self.rows[(self.rows["method"] == method) & (self.rows["control_of"] == spec)]
        return None if cells.empty else self.networks[str(cells["spec"].iloc[0])]

    def over(self, spec: str, other: Network) -> Difference | None:
        """By how much a network is better than another one; None where that cannot be told."""
        return self._contrast([(1.0, self.networks[spec]), (-1.0, other)])

    @cached_property
    def differences(self) -> dict[Place, Difference]:
        """From what `OVER` names, of every method where it is known."""
        found: dict[Place, Difference | None] = {}
        for spec in self.rows.loc[self.rows["role"] == "method", "spec"].unique():
            found[spec, "static_at_equal_macs", None] = self.over_static(spec)
            for size in self.batch_sizes:
                found[spec, "static_at_equal_latency", size] = self.over_static(spec, size)
            for method in CHANCE:
                control = self.control(spec, method)
                found[spec, method, None] = None if control is None else self.over(spec, control)
        return {place: difference for place, difference in found.items() if difference is not None}

    @cached_property
    def q_values(self) -> dict[Place, float]:
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


def columns(setting: Setting, spec: str, batch_size: int | None) -> dict[str, Any]:
    """What `results.csv` says of a method's controls, at that batch size if it was timed; empty for what has none."""
    found: dict[str, Any] = {}
    at_latency = None if batch_size is None else setting.static_at(spec, batch_size)
    for name, at in (("macs", setting.static_at(spec)), ("latency", at_latency)):
        if at is not None:
            found[f"static_top1_at_equal_{name}"] = at.top1
    for method in CHANCE:
        control = setting.control(spec, method)
        if control is not None:
            found[f"{method}_top1"], found[f"{method}_macs"] = control.top1, control.macs
    for name in OVER:
        place = (spec, name, batch_size if name == "static_at_equal_latency" else None)
        if difference := setting.differences.get(place):
            found[f"over_{name}_points"], found[f"over_{name}_margin"] = difference.points, difference.margin
            found[f"over_{name}_q"] = q = setting.q_values[place]
            if name in CHANCE:
                found[f"better_than_{name}"] = "unclear" if q >= SURE else "yes" if difference.points > 0 else "no"
    return found


def clauses_of(setting: Setting, spec: str) -> Iterator[str]:
    """What the controls say of a method, for its sentence: its `columns`, which its rows hold, in words."""
    rows = setting.rows[setting.rows["spec"] == spec]
    own = rows.iloc[0]
    yield from _against_static(own, "static_at_equal_macs", "static nets of equal multiply-adds")
    for size in dict.fromkeys((*setting.batch_sizes[:1], *setting.batch_sizes[-1:])):
        for _, row in rows[rows["batch_size"] == size].iloc[:1].iterrows():
            nets = f"static nets of equal latency at batch {size}"
            yield from _against_static(row, "static_at_equal_latency", nets)
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


def _against_static(row: pd.Series, over: str, nets: str) -> Iterator[str]:
    points, margin, q = (row[f"over_{over}_{what}"] for what in ("points", "margin", "q"))
    if q < SURE:
        size = f"{n.fixed(abs(points), 1)} ± {n.fixed(margin, 1)} points"
        yield f"{size} {'above' if points > 0 else 'below'} {nets}"
    elif not n.missing(points):
        yield f"{_signed(points, margin)}, not distinguishable from {nets}"


def _signed(points: float, margin: float) -> str:
    return f"{n.points(points)} ± {n.fixed(margin, 1)} points"
