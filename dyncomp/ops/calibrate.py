"""Thresholds of successive exits, chosen on the calibration split."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from dyncomp.core.net import Net
from dyncomp.core.points import Point, Seen
from dyncomp.core.pricing import price
from dyncomp.core.trace import Decision, Trace
from dyncomp.ops.exits import Exit

NEVER, ALWAYS = 1e9, -1e9
"""thresholds above and below every score: no image leaves, every image leaves"""

BUDGETS = (0.1, 0.3, 0.5, 0.7, 0.9, 1.2, 1.5, 1.9)
"""values of q for budgeted points: a subset of MSDNet's 0.05, 0.1, ..., 1.95"""

GRID = 100
"""number of values tried for a parameter common to all exits"""


@dataclass(frozen=True)
class Ladder:
    """K successive exits and the network's end, for N images of the calibration split; on the CPU.

    scores (K, N): an image leaves at the first exit where its score is above the threshold; right (K + 1, N) bool:
    whether the answer of an exit, or of the end, is right; macs (K + 1,): MACs of an image that leaves there, rising.
    """

    scores: Tensor
    right: Tensor
    macs: Tensor

    @property
    def images(self) -> int:
        """The number of images N."""
        return self.right.shape[1]

    def leaves(self, thresholds: Sequence[float]) -> Tensor:
        """The index of the exit at which each image leaves, (N,) int64; K is the end."""
        limits = self.scores.new_tensor(list(thresholds))[:, None]
        out = torch.cat([self.scores > limits, torch.ones(1, self.images, dtype=torch.bool)])  # (K + 1, N)
        return out.int().argmax(dim=0)

    def right_answers(self, thresholds: Sequence[float]) -> int:
        """The number of images with the right answer."""
        return int(self.right.gather(0, self.leaves(thresholds)[None]).sum())

    def mean_macs(self, thresholds: Sequence[float]) -> float:
        """Mean MACs per image."""
        return float(self.macs.double()[self.leaves(thresholds)].mean())


def ladder(net: Net, seen: Seen) -> Ladder:
    """The ladder of a network whose exits are nested, each the first in the rest of the one before.

    Units of other ops are priced as used. Raises ValueError for a network without exits.
    """
    sites = exit_sites(net)
    if not sites:
        raise ValueError("the network has no exits: calibrate one that holds core.Exit")
    answers = [*(seen.said[site] for site in sites), seen.logits]
    right = torch.stack([answer.argmax(dim=1) == seen.labels for answer in answers])  # (K + 1, N)
    scores = torch.stack([seen.said[f"{site}.score"] for site in sites])  # (K, N)
    if net.costs is None:
        raise RuntimeError("no costs yet: set net.costs = measure_costs(net, images[:1]) first")
    count = len(sites) + 1
    decisions = {}  # of K + 1 images, which leave at each exit and at the end
    for site, op in net.sites.items():
        wish = torch.ones(count, op.units, dtype=torch.float64)
        if site in sites:
            wish[sites.index(site)] = 0.0
        decisions[site] = Decision(wish, wish, wish) if site in sites else op.forced(wish, wish)
    return Ladder(scores, right, price(net.costs, Trace(decisions, net.parents, count)))


def exit_sites(net: Net) -> list[str]:
    """The sites of the network's exits, in order of execution."""
    return [site for site, op in net.sites.items() if isinstance(op, Exit)]


def anytime_thresholds(exits: int, at: int) -> list[float]:
    """All images leave at the exit of index `at`; at the end if there is no such exit."""
    return [ALWAYS if exit == at else NEVER for exit in range(exits)]


def budgeted_thresholds(seen: Ladder, q: float) -> list[float]:
    """Exit k of K + 1, the end being the last, answers a share of images proportional to q**k (Huang et al. 2018).

    MSDNet's budgeted batch (arXiv:1703.09844, section 5): of the remaining images, those with the highest scores leave.
    Shares are met to within one image. Images of equal score leave together; the cut is then the nearest possible one,
    the earlier of two equally near.
    """
    exits = len(seen.scores)
    weights = torch.tensor(q, dtype=torch.float64) ** torch.arange(1, exits + 2)
    gone = (seen.images * weights.cumsum(0) / weights.sum()).round().long()[:-1].tolist()
    return _cut_in_turn(seen, lambda exit, there: gone[exit] - (seen.images - there))


def cheapest_thresholds(seen: Ladder, tolerance: float) -> list[float]:
    """Thresholds of low mean MACs whose accuracy is at most `tolerance` points below that of the end.

    Candidates are one threshold for all exits, one share of the images that reach each exit, and no exit. The
    thresholds of the cheapest allowed candidate of each kind are lowered, exit by exit, as far as the accuracy allows,
    until no single one can be lowered. So the result never costs more than BranchyNet's grid with one threshold
    (arXiv:1709.01686), nor than the network without exits.
    """
    needed = int(seen.right[-1].sum()) - tolerance / 100 * seen.images - 1e-9
    starts = []
    for family in (_one_threshold, _one_share):
        allowed = [limits for limits in family(seen) if seen.right_answers(limits) >= needed]
        starts.append(min(allowed, key=seen.mean_macs, default=anytime_thresholds(len(seen.scores), -1)))
    starts.append(anytime_thresholds(len(seen.scores), -1))
    orders = (range(len(seen.scores)), range(len(seen.scores) - 1, -1, -1))
    refined = [_opened(seen, start, needed, order) for start in starts for order in orders]
    return min(refined, key=seen.mean_macs)


def _one_threshold(seen: Ladder) -> Iterator[list[float]]:
    scores = seen.scores.flatten().sort(descending=True).values
    cuts = _cuts(scores)
    places = torch.linspace(0, len(cuts) - 1, min(GRID, len(cuts))).round().long()
    for cut in cuts[places].tolist():
        yield [_between(scores, cut)] * len(seen.scores)


def _one_share(seen: Ladder) -> Iterator[list[float]]:
    def wanted(share: float, exit: int, there: int) -> int:
        return round(share * there)

    for step in range(1, GRID + 1):
        yield _cut_in_turn(seen, partial(wanted, step / GRID))


def _opened(seen: Ladder, start: Sequence[float], needed: float, order: Sequence[int]) -> list[float]:
    """Lower the threshold of each exit as far as the accuracy allows, in that order, until mean MACs stop falling."""
    thresholds, cost = list(start), seen.mean_macs(start)
    while True:
        for exit in order:
            thresholds[exit] = _lowest(seen, thresholds, exit, needed)
        if (cheaper := seen.mean_macs(thresholds)) >= cost:
            return thresholds
        cost = cheaper


def _lowest(seen: Ladder, thresholds: Sequence[float], exit: int, needed: float) -> float:
    """The lowest threshold of one exit with at least `needed` right answers; the present one if no lower one does."""
    later = [*([NEVER] * (exit + 1)), *thresholds[exit + 1 :]]
    here = seen.leaves([*thresholds[:exit], *([NEVER] * (len(thresholds) - exit))]) == len(thresholds)  # (N,)
    stayed = seen.right.gather(0, seen.leaves(later)[None])[0].long()  # (N,) right answers of images that stay
    order = seen.scores[exit][here].argsort(descending=True, stable=True)
    gain = (seen.right[exit].long() - stayed)[here][order].cumsum(0)  # (n,) if the first 1, 2, ... images leave
    none_leave = seen.right_answers([*thresholds[:exit], NEVER, *thresholds[exit + 1 :]])
    scores = seen.scores[exit][here][order]
    cuts = _cuts(scores)
    right = none_leave + torch.cat([gain.new_zeros(1), gain])[cuts]
    return min(_between(scores, int(cuts[right >= needed].amax())), thresholds[exit])


def _cut_in_turn(seen: Ladder, wanted: Callable[[int, int], int]) -> list[float]:
    """Thresholds with which about `wanted(exit, remaining images)` images leave at each exit."""
    there = torch.ones(seen.images, dtype=torch.bool)
    thresholds = []
    for exit, scores in enumerate(seen.scores):
        falling = scores[there].sort(descending=True).values  # (n,)
        cuts = _cuts(falling)
        beyond = cuts - wanted(exit, len(falling))
        nearest = cuts[(2 * beyond.abs() + (beyond > 0)).argmin()]  # the earlier of two equally near ones
        thresholds.append(_between(falling, int(nearest)))
        there &= scores <= thresholds[-1]
    return thresholds


def _cuts(falling: Tensor) -> Tensor:
    """The numbers of falling scores that can be above a threshold: equal scores are above it together."""
    falls = torch.ones(len(falling) + 1, dtype=torch.bool)  # 0 and all scores, too
    falls[1:-1] = falling[1:] < falling[:-1]
    return falls.nonzero().squeeze(1)


def _between(falling: Tensor, cut: int) -> float:
    """A threshold below the first `cut` scores: halfway to the next score, or that score if rounding requires it."""
    if cut == 0:
        return NEVER
    if cut == len(falling):
        return ALWAYS
    above, below = falling[cut - 1], falling[cut]
    middle = (above + below) / 2
    return float(middle if middle < above else below)


def exit_points(net: Net, seen: Seen, tolerance: float) -> list[Point]:
    """The operating points of a network with exits: default, anytime, budgeted.

    The default is the cheapest point found within `tolerance` points of the end's accuracy. At an anytime point all
    images leave at one exit, or at the end; at a budgeted point a share proportional to q**k leaves at exit k.
    """
    sites, found = exit_sites(net), ladder(net, seen)
    count = len(sites)

    def point(name: str, kind: str, thresholds: Sequence[float]) -> Point:
        return Point(name, kind, dict(zip(sites, thresholds, strict=True)))

    anytime = [point(f"exit {at + 1}", "anytime", anytime_thresholds(count, at)) for at in range(count)]
    return [
        point("default", "default", cheapest_thresholds(found, tolerance)),
        *anytime,
        point("end", "anytime", anytime_thresholds(count, count)),
        *(point(f"q={q}", "budgeted", budgeted_thresholds(found, q)) for q in BUDGETS),
    ]
