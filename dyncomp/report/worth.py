"""Whether a method is worth it: what its differences from static networks of equal latency come to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from dyncomp.report import numbers as n
from dyncomp.report.controls import SURE, Network, Setting

Mark = Literal["yes", "no", "unclear"]


@dataclass(frozen=True)
class Worth:
    """`yes` where static networks of equal cost are less accurate at a batch size, `no` where at none; and why."""

    mark: Mark
    why: str

    def __str__(self) -> str:
        return f"worth it: {self.mark}, {self.why}"


def worth_of(setting: Setting, spec: str) -> Worth | None:
    """The verdict on a method, from its times at the smallest and the largest batch; without times, from its MACs.

    A method that costs more than every static network, and is no more accurate than the best of them, loses to it
    whatever the interval. None where no static network is there to compare with.
    """
    ends = dict.fromkeys((*setting.batch_sizes[:1], *setting.batch_sizes[-1:]))
    sides = {size: side for size in ends if (side := _side(setting, spec, size)) is not None}
    if not sides:
        side = _side(setting, spec, None)
        if side is None:
            return None
        nets = "static nets of equal multiply-adds (no latency is known)"
        if side == 0:
            return Worth("unclear", f"not distinguishable from {nets}")
        return Worth("yes", f"better than {nets}") if side > 0 else Worth("no", f"{nets} are no worse")
    better, worse = ([size for size, side in sides.items() if side == sign] for sign in (1, -1))
    if better and worse:
        return Worth("yes", f"at batch {better[0]}; at batch {worse[0]} static nets of equal latency are no worse")
    if better:
        return Worth("yes", f"better than static nets of equal latency{_at(better)}")
    open_ends = [size for size in ends if size not in worse]
    if not open_ends:
        return Worth("no", f"static nets of equal latency are no worse{_at(worse)}")
    if worse:
        rest = "not distinguishable from them" if all(size in sides for size in open_ends) else "not known"
        return Worth("unclear", f"static nets of equal latency are no worse{_at(worse)},{_at(open_ends)} {rest}")
    return Worth("unclear", f"not distinguishable from static nets of equal latency{_at(list(sides))}")


def _at(sizes: list[int]) -> str:
    return f" at batch {n.listed([str(size) for size in sizes])}"


def _side(setting: Setting, spec: str, batch_size: int | None) -> int | None:
    """1 where the method is declared above static networks of equal cost, -1 below, 0 neither; None: unknown.

    The difference is that of the setting's rows, whose `columns` have been filled in.
    """
    own = setting.rows[setting.rows["spec"] == spec]
    over = "over_static_at_equal_macs"
    if batch_size is not None:
        own, over = own[own["batch_size"] == batch_size], "over_static_at_equal_latency"
    for points, q in own[[f"{over}_points", f"{over}_q"]].dropna().to_numpy()[:1]:
        if q >= SURE:
            return 0
        return 1 if points > 0 else -1
    best = _best_of_cheaper(setting, spec, batch_size)
    return None if best is None or setting.networks[spec].top1 > best.top1 else -1


def _best_of_cheaper(setting: Setting, spec: str, batch_size: int | None) -> Network | None:
    """The most accurate static network, where all of them cost less than this one."""
    costs = setting.costs(batch_size)
    rungs = [rung for rung in setting.rungs if rung.spec in costs]
    if spec not in costs or not rungs or any(costs[rung.spec] > costs[spec] for rung in rungs):
        return None
    return max(rungs, key=lambda rung: rung.top1)
