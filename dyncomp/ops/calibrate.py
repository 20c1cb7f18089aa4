"""Thresholds of exits in a row, chosen by what the calibration split shows."""

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
"""Thresholds above and below every score: no image leaves, every image leaves."""

BUDGETS = (0.1, 0.3, 0.5, 0.7, 0.9, 1.2, 1.5, 1.9)
"""Values of q for budgeted points: some of MSDNet's 0.05, 0.1, ..., 1.95."""

GRID = 100
"""Values that a parameter common to all exits is tried at."""


@dataclass(frozen=True)
class Ladder:
    """K exits in a row and the network's end, as N images of the calibration split meet them; on the CPU.

    scores (K, N): an image leaves at the first exit where its score is above the threshold; right (K + 1, N) bool:
    whether the answer of that exit, or of the end, is right; macs (K + 1,): what an image costs that leaves there,
    rising.
    """

    scores: Tensor
    right: Tensor
    macs: Tensor

    @property
    def images(self) -> int:
        """N."""
        return self.right.shape[1]

    def leaves(self, thresholds: Sequence[float]) -> Tensor:
        """The exit at which each image leaves, (N,) int64 from 0; K is the end."""
        limits = self.scores.new_tensor(list(thresholds))[:, None]
        out = torch.cat([self.scores > limits, torch.ones(1, self.images, dtype=torch.bool)])  # (K + 1, N)
        return out.int().argmax(dim=0)

    def right_answers(self, thresholds: Sequence[float]) -> int:
        """How many images get the right answer."""
        return int(self.right.gather(0, self.leaves(thresholds)[None]).sum())

    def mean_macs(self, thresholds: Sequence[float]) -> float:
        """What an image costs in the mean."""
        return float(self.macs.double()[self.leaves(thresholds)].mean())


def ladder(net: Net, seen: Seen) -> Ladder:
    """The network's exits, each the first in the rest of the one before, as they answered the calibration split.

    Units that other ops leave to choice are priced as used. Raises ValueError for a network without exits.
    """
    sites = exit_sites(net)
    if not sites:
        raise ValueError("the network has no exits: calibrate one that holds core.Exit")
    answers = [*(seen.said[site] for site in sites), seen.logits]
    right = torch.stack([answer.argmax(dim=1) == seen.labels for answer in answers])  # (K + 1, N)
    scores = torch.stack([seen.said[f"{site}.score"] for site in sites])  # (K, N)
    return Ladder(scores, right, _cumulative_macs(net, sites))


def exit_sites(net: Net) -> list[str]:
    """The sites of the network's exits, in the order in which images come by."""
    return [site for site, op in net.sites.items() if isinstance(op, Exit)]


def _cumulative_macs(net: Net, sites: Sequence[str]) -> Tensor:
    """MACs of leaving at each exit and at the end, (K + 1,) float64: prices of as many made-up images."""
    if net.costs is None:
        raise RuntimeError("no costs yet: set net.costs = measure_costs(net, images[:1]) first")
    count = len(sites) + 1
    decisions = {}
    for site, op in net.sites.items():
        wish = torch.ones(count, op.units, dtype=torch.float64)
        if site in sites:
            wish[sites.index(site)] = 0.0
        decisions[site] = _exact(wish) if site in sites else op.forced(wish, wish)
    return price(net.costs, Trace(decisions, net.parents, count))


def _exact(used: Tensor) -> Decision:
    return Decision(used, used, used)


def anytime_thresholds(exits: int, at: int) -> list[float]:
    """Everybody leaves at exit `at`, from 0; at the end if there is no such exit."""
    return [ALWAYS if exit == at else NEVER for exit in range(exits)]


def budgeted_thresholds(seen: Ladder, q: float) -> list[float]:
    """Exit k of K + 1, the end being the last, answers a share proportional to q**k (Huang et al. 2018).

    MSDNet's budgeted batch (arXiv:1703.09844, section 5): of the images that are still there, those with the highest
    scores leave. Shares are met within one image; images of equal score go together, and then the cut is the nearest
    possible one, the earlier of two.
    """
    exits = len(seen.scores)
    weights = torch.tensor(q, dtype=torch.float64) ** torch.arange(1, exits + 2)
    gone = (seen.images * weights.cumsum(0) / weights.sum()).round().long()[:-1].tolist()
    return _cut_in_turn(seen, lambda exit, there: gone[exit] - (seen.images - there))


def cheapest_thresholds(seen: Ladder, tolerance: float) -> list[float]:
    """The thresholds of least mean MACs found whose accuracy is at most `tolerance` points below the end's.

    Tried are one threshold for all exits, and one share of the images that get to each exit; the cheapest of each kind
    that keeps the accuracy is opened further, exit by exit, as far as the accuracy allows, until no single exit can be
    opened more. So the result is never dearer than BranchyNet's grid with one threshold (arXiv:1709.01686), nor than
    staying to the end.
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
    """Every exit opened as far as the accuracy allows, in that order, until nothing changes."""
    thresholds, cost = list(start), seen.mean_macs(start)
    while True:
        for exit in order:
            thresholds[exit] = _lowest(seen, thresholds, exit, needed)
        if (cheaper := seen.mean_macs(thresholds)) >= cost:
            return thresholds
        cost = cheaper


def _lowest(seen: Ladder, thresholds: Sequence[float], exit: int, needed: float) -> float:
    """The lowest threshold of one exit that keeps `needed` answers right; its own if none lower does."""
    later = [*([NEVER] * (exit + 1)), *thresholds[exit + 1 :]]
    here = seen.leaves([*thresholds[:exit], *([NEVER] * (len(thresholds) - exit))]) == len(thresholds)  # (N,)
    stayed = seen.right.gather(0, seen.leaves(later)[None])[0].long()  # (N,) right if it does not leave here
    order = seen.scores[exit][here].argsort(descending=True, stable=True)
    gain = (seen.right[exit].long() - stayed)[here][order].cumsum(0)  # (n,) for the first 1, 2, ... that leave
    none_leave = seen.right_answers([*thresholds[:exit], NEVER, *thresholds[exit + 1 :]])
    scores = seen.scores[exit][here][order]
    cuts = _cuts(scores)
    right = none_leave + torch.cat([gain.new_zeros(1), gain])[cuts]
    return min(_between(scores, int(cuts[right >= needed].amax())), thresholds[exit])


def _cut_in_turn(seen: Ladder, wanted: Callable[[int, int], int]) -> list[float]:
    """Thresholds with which about `wanted(exit, images still there)` images leave at each exit."""
    there = torch.ones(seen.images, dtype=torch.bool)
    thresholds = []
    for exit, scores in enumerate(seen.scores):
        falling = scores[there].sort(descending=True).values  # (n,)
        cuts = _cuts(falling)
        beyond = cuts - wanted(exit, len(falling))
        nearest = cuts[(2 * beyond.abs() + (beyond > 0)).argmin()]  # the earlier of two that are as near
        thresholds.append(_between(falling, int(nearest)))
        there &= scores <= thresholds[-1]
    return thresholds


def _cuts(falling: Tensor) -> Tensor:
    """How many of these scores, from the highest, a threshold can let through: not one of two equal ones alone."""
    falls = torch.ones(len(falling) + 1, dtype=torch.bool)  # at both ends too
    falls[1:-1] = falling[1:] < falling[:-1]
    return falls.nonzero().squeeze(1)


def _between(falling: Tensor, cut: int) -> float:
    """The threshold that lets the first `cut` scores through: halfway to the next, as far as numbers allow."""
    if cut == 0:
        return NEVER
    if cut == len(falling):
        return ALWAYS
    above, below = falling[cut - 1], falling[cut]
    middle = (above + below) / 2
    return float(middle if middle < above else below)


def exit_points(net: Net, seen: Seen, tolerance: float) -> list[Point]:
    """The operating points of a network with exits, the default first.

    That is the cheapest within `tolerance` points of the end's accuracy. Then come the anytime points, everybody
    leaving at one exit, or at the end, and the budgeted ones, a share proportional to q**k leaving at exit k.
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
