"""Thresholds of exits: shares, accuracies and multiply-adds against counts image by image, and exhaustive search."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor, nn

from dyncomp.core import Net, Seen, measure_costs
from dyncomp.core.decisions import all_on
from dyncomp.ops import Certainty, Exit
from dyncomp.ops.calibrate import (
    ALWAYS,
    BUDGETS,
    NEVER,
    Ladder,
    anytime_thresholds,
    budgeted_thresholds,
    cheapest_thresholds,
    exit_points,
    ladder,
)
from tests.small import CLASSES, C, conv, images


def made(exits: int, count: int, seed: int = 0, levels: int | None = None) -> Ladder:
    """Exits whose answers are right more often when the score is high; `levels` makes many scores equal."""
    generator = torch.Generator().manual_seed(seed)
    scores = torch.rand(exits, count, generator=generator)
    if levels:
        scores = (scores * levels).floor() / levels
    chance = torch.cat([0.4 + 0.55 * scores, torch.full((1, count), 0.85)])
    right = torch.rand(exits + 1, count, generator=generator) < chance
    return Ladder(scores, right, torch.tensor([10.0 * (k + 1) ** 2 for k in range(exits + 1)]))


def walk(seen: Ladder, thresholds: Sequence[float]) -> list[int]:
    """Where each image leaves, image by image."""
    exits = len(seen.scores)
    return [
        next((k for k in range(exits) if float(seen.scores[k, i]) > thresholds[k]), exits) for i in range(seen.images)
    ]


def right_and_macs(seen: Ladder, thresholds: Sequence[float]) -> tuple[int, float]:
    where = walk(seen, thresholds)
    right = sum(bool(seen.right[k, i]) for i, k in enumerate(where))
    return right, sum(float(seen.macs[k]) for k in where) / seen.images


@pytest.mark.parametrize("exits", [1, 2, 4])
@pytest.mark.parametrize("seed", range(3))
def test_walking_past_the_exits_image_by_image(exits: int, seed: int) -> None:
    seen = made(exits, 50, seed)
    thresholds = torch.rand(exits, generator=torch.Generator().manual_seed(seed)).tolist()
    right, macs = right_and_macs(seen, thresholds)
    assert seen.leaves(thresholds).tolist() == walk(seen, thresholds)
    assert seen.right_answers(thresholds) == right
    assert seen.mean_macs(thresholds) == pytest.approx(macs)


@pytest.mark.parametrize("at", range(4))
def test_anytime_everybody_leaves_at_one_exit(at: int) -> None:
    thresholds = anytime_thresholds(3, at)
    assert walk(made(3, 20), thresholds) == [at] * 20
    assert all(map(math.isfinite, thresholds))


@pytest.mark.parametrize("q", [0.05, 0.5, 1.0, 1.95])
@pytest.mark.parametrize(("exits", "count"), [(1, 10), (2, 101), (6, 1000)])
def test_budgeted_shares_are_those_of_q(q: float, exits: int, count: int) -> None:
    where = walk(made(exits, count), budgeted_thresholds(made(exits, count), q))
    weights = [q ** (k + 1) for k in range(exits + 1)]
    for k, weight in enumerate(weights):
        assert abs(where.count(k) - count * weight / sum(weights)) <= 1


@pytest.mark.parametrize("q", [0.3, 1.0])
def test_budgeted_the_surest_of_those_still_there_leave(q: float) -> None:
    seen = made(3, 60)
    where = walk(seen, budgeted_thresholds(seen, q))
    for k in range(3):
        gone = [float(seen.scores[k, i]) for i in range(60) if where[i] == k]
        stay = [float(seen.scores[k, i]) for i in range(60) if where[i] > k]
        assert not gone or not stay or min(gone) > max(stay)


@pytest.mark.parametrize("q", [0.3, 1.0, 1.7])
@pytest.mark.parametrize("levels", [1, 4])
def test_budgeted_equal_scores_go_together_at_the_nearest_cut(q: float, levels: int) -> None:
    seen = made(1, 100, levels=levels)
    scores = sorted(seen.scores[0].tolist(), reverse=True)
    possible = [n for n in range(101) if n in (0, 100) or scores[n - 1] > scores[n]]
    wanted = round(100 / (1 + q))
    thresholds = budgeted_thresholds(seen, q)
    assert walk(seen, thresholds).count(0) == min(possible, key=lambda n: (abs(n - wanted), n))
    assert budgeted_thresholds(seen, q) == thresholds


@pytest.mark.parametrize("tolerance", [0.0, 5.0, 100.0])
@pytest.mark.parametrize("levels", [None, 5])
@pytest.mark.parametrize("seed", range(2))
def test_cheapest_of_one_exit_is_that_of_trying_all(tolerance: float, levels: int | None, seed: int) -> None:
    seen = made(1, 80, seed, levels)
    needed = int(seen.right[-1].sum()) - tolerance / 100 * 80
    tried = [right_and_macs(seen, [t]) for t in (-1.0, *seen.scores[0].tolist(), 2.0)]
    best = min(macs for right, macs in tried if right >= needed)
    right, macs = right_and_macs(seen, cheapest_thresholds(seen, tolerance))
    assert (macs, right >= needed) == (pytest.approx(best), True)


@pytest.mark.parametrize("tolerance", [0.0, 10.0])
@pytest.mark.parametrize("seed", range(3))
def test_cheapest_of_two_exits_comes_near_that_of_trying_all(tolerance: float, seed: int) -> None:
    seen = made(2, 30, seed)
    needed = int(seen.right[-1].sum()) - tolerance / 100 * 30
    each = [[-1.0, *row, 2.0] for row in seen.scores.tolist()]
    allowed = [m for r, m in (right_and_macs(seen, t) for t in itertools.product(*each)) if r >= needed]
    right, macs = right_and_macs(seen, cheapest_thresholds(seen, tolerance))
    assert right >= needed
    assert min(allowed) - 1e-6 <= macs <= 1.1 * min(allowed)


@pytest.mark.parametrize("tolerance", [0.0, 5.0])
@pytest.mark.parametrize("seed", range(2))
def test_cheapest_beats_any_one_threshold_and_no_exit_can_be_opened_more(tolerance: float, seed: int) -> None:
    seen = made(3, 60, seed)  # fewer scores than the grid has values
    needed = int(seen.right[-1].sum()) - tolerance / 100 * 60
    thresholds = cheapest_thresholds(seen, tolerance)
    right, macs = right_and_macs(seen, thresholds)
    assert right >= needed
    common = [right_and_macs(seen, [t] * 3) for t in [*seen.scores.flatten().tolist(), NEVER, ALWAYS]]
    assert macs <= min(m for r, m in common if r >= needed) + 1e-6
    for k, t in itertools.product(range(3), [*seen.scores.flatten().tolist(), ALWAYS]):
        other_right, other_macs = right_and_macs(seen, [*thresholds[:k], t, *thresholds[k + 1 :]])
        assert other_right < needed or other_macs >= macs - 1e-6


def test_more_tolerance_never_costs_more() -> None:
    seen = made(1, 200)
    macs = [seen.mean_macs(cheapest_thresholds(seen, t)) for t in (0.0, 0.5, 1.0, 2.0, 5.0, 20.0)]
    assert macs == sorted(macs, reverse=True)
    assert macs[0] > macs[-1]


def test_exits_that_are_always_wrong_take_no_right_answer() -> None:
    seen = made(2, 40)
    wrong = Ladder(seen.scores, seen.right & torch.tensor([[False], [False], [True]]), seen.macs)
    where = walk(wrong, cheapest_thresholds(wrong, 0.0))
    assert all(where[i] == 2 for i in range(40) if wrong.right[2, i])


def test_adjacent_numbers_are_told_apart() -> None:
    low = torch.tensor(0.5)
    high = torch.nextafter(low, torch.tensor(1.0))
    seen = Ladder(torch.stack([low, high])[None], torch.ones(2, 2, dtype=torch.bool), torch.tensor([1.0, 2.0]))
    assert walk(seen, budgeted_thresholds(seen, 1.0)) == [1, 0]


class Head(nn.Sequential):
    def __init__(self) -> None:
        super().__init__(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(C, CLASSES))


def exiting() -> tuple[Net, Tensor]:
    """Two exits, the second in the rest of the first; and images."""
    torch.manual_seed(0)
    judge = Certainty("confidence")
    rest = Exit(Head(), nn.Sequential(conv(), nn.Tanh(), Head()), judge, 0.3)
    first = Exit(Head(), nn.Sequential(conv(), nn.ReLU(), rest), judge, 0.3)
    net = Net(nn.Sequential(conv(1), first)).double().eval()
    net.costs = measure_costs(net, images(1))
    return net, images(40)


@torch.no_grad()
def test_points_of_a_network_are_what_it_then_does() -> None:
    net, x = exiting()
    dense = net(x, sparse=False, decisions=all_on(net, len(x)))
    labels = dense.logits.argmax(1).where(torch.arange(40) % 4 > 0, torch.zeros(40, dtype=torch.long))
    seen = Seen(labels, dense.logits, dense.said)
    found, points = ladder(net, seen), exit_points(net, seen, 2.0)
    assert [p.kind for p in points] == ["default", *["anytime"] * 3, *["budgeted"] * len(BUDGETS)]
    for point in points:
        point.apply(net)
        ran, limits = net(x), list(point.thresholds.values())
        right, macs = right_and_macs(found, limits)
        assert int((ran.logits.argmax(1) == labels).sum()) == right
        assert float(ran.macs().mean()) == pytest.approx(macs)
    assert len({round(found.mean_macs(list(p.thresholds.values()))) for p in points}) > 5  # not all the same


def test_a_network_without_exits_is_refused() -> None:
    net = Net(nn.Sequential(conv(), Head())).double()
    with pytest.raises(ValueError, match="no exits"):
        ladder(net, Seen(torch.zeros(1), torch.zeros(1, CLASSES), {}))
