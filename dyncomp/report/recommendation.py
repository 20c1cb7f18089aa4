"""Which network to ship: for each kind of cost, the cheapest that is hardly less accurate than the plain backbone.

Static networks of other sizes are candidates like any method; controls of gates are not.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from dyncomp.report import numbers as n
from dyncomp.report.controls import RUNG, Network, Setting, settings
from dyncomp.report.reading import Reading
from dyncomp.samples import Interval

if TYPE_CHECKING:
    import pandas as pd

ACCEPTED = 0.5
"""points of accuracy that a recommended network may be below static"""
NAMED = 2
"""up to this number, networks without a valid timing are named, else counted"""
FAST, FEWER = "as fast as static", "fewer than static"


@dataclass(frozen=True)
class Recommendation:
    """What to ship for one kind of cost in one setting; `text` follows on `goal` and a colon."""

    goal: str
    spec: str
    dataset: str
    backbone: str
    text: str

    def __str__(self) -> str:
        return f"{self.goal}: {self.spec}, {self.text}"


def recommendations(reading: Reading, frame: pd.DataFrame) -> Iterator[Recommendation]:
    """For latency at the smallest batch, throughput at the largest, and multiply-adds; of settings with a static."""
    for setting in settings(reading, frame):
        statics = setting.rows[setting.rows["role"] == "static"]
        if statics.empty or setting.rows["spec"].nunique() == 1:
            continue
        static = setting.networks[str(statics["spec"].iloc[0])]
        sizes = setting.batch_sizes
        goals = {f"least latency at batch {size}": (setting.gains[size], FAST) for size in sizes[:1]}
        goals |= {f"most images per second, batch {size}": (setting.gains[size], FAST) for size in sizes[1:][-1:]}
        fewer = {spec: Interval(*[static.macs / network.macs] * 3) for spec, network in setting.networks.items()}
        goals["fewest multiply-adds"] = fewer, FEWER
        for goal, (gains, than) in goals.items():
            spec, text = _chosen(setting, static, gains, than)
            row = setting.rows.iloc[0]
            yield Recommendation(goal, spec, str(row["dataset"]), str(row["backbone"]), text)


def _chosen(setting: Setting, static: Network, gains: Mapping[str, Interval], than: str) -> tuple[str, str]:
    """The spec of the best of those that are accurate enough, what it is like, and which have no valid timing."""
    roles = dict(zip(setting.rows["spec"], setting.rows["role"], strict=True))
    methods = dict(zip(setting.rows["spec"], setting.rows["method"], strict=True))
    accurate = [
        spec
        for spec, network in setting.networks.items()
        if (roles[spec] != "control" or methods[spec] == RUNG) and network.top1 >= static.top1 - ACCEPTED
    ]
    able = {spec: gains[spec] for spec in accurate if spec in gains}
    untold = [spec for spec in accurate if spec not in gains]
    named = n.listed(untold) if len(untold) <= NAMED else f"{len(untold)} others"
    missing = f"; no valid timing of {named}" if untold else ""
    best = max(able, key=lambda spec: able[spec].middle, default=static.spec)
    if best == static.spec:
        return best, f"{n.percent(static.top1)}: no other within {ACCEPTED:g} points of it is better{missing}"
    gain, network = able[best], setting.networks[best]
    interval = f" ({n.fixed(gain.low, 2)} to {n.fixed(gain.high, 2)})" if gain.low < gain.high else ""
    difference = setting.over(best, static)
    by = "" if difference is None else f" ± {n.fixed(difference.margin, 1)}"
    text = f"{n.ratio(gain.middle)}{interval} {than}, {n.percent(network.top1)}"
    text = f"{text} ({n.points(network.top1 - static.top1)}{by} points)"
    close = [spec for spec, other in able.items() if spec != best and other.high >= gain.low]
    return best, text + (f"; as good by the clock: {n.listed(close)}" if close else "") + missing
