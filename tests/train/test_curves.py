"""Stages on one curve of the learning rate: rates, momentum, what was spent before, and budgets too small."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.optim import Optimizer

from dyncomp import build
from dyncomp.core import Net, Output, Stage
from dyncomp.errors import InvalidValue
from dyncomp.train import Recipe, check_budget, train
from dyncomp.train.loop import curves_of
from tests.handmade import stripes
from tests.train.test_loop import Recording

SPLITS = stripes()
RECIPE = Recipe(epochs=4, batch_size=32)  # 3 steps an epoch


def network(seed: int = 0) -> Net:
    return build("static", "cifar_resnet8", classes=2, in_channels=1, image_size=8, seed=seed)


def cross_entropy(output: Output, labels: Tensor, progress: float) -> Tensor:
    return F.cross_entropy(output.logits.float(), labels)


def stage(share: float, **more: Any) -> Stage:
    return Stage("one", share, **{"loss": cross_entropy, **more})


@pytest.mark.parametrize(
    ("restarts", "wanted"),
    [
        ([False], [(0, 5, True)]),
        ([True], [(0, 5, False)]),
        ([False, False], [(0, 12, True), (5, 12, True)]),
        ([False, True], [(0, 5, True), (0, 7, False)]),
        ([True, True], [(0, 5, False), (0, 7, False)]),
        (
            [False, False, True, False, True],
            [(0, 12, True), (5, 12, True), (0, 3, False), (2, 3, False), (0, 4, False)],
        ),
    ],
)
def test_a_curve_goes_over_all_stages_until_one_restarts(restarts: list[bool], wanted: list[tuple[int, ...]]) -> None:
    steps = [5, 7, 2, 1, 4][: len(restarts)]
    assert [tuple(curve) for curve in curves_of([stage(0.1, restarts=one) for one in restarts], steps)] == wanted


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[tuple[float, dict[str, bool]]]:
    """Per step of every stage: the learning rate, and of each parameter whether it has momentum before it."""
    steps: list[tuple[float, dict[str, bool]]] = []
    own = Recipe.optimizer

    def watched(self: Recipe, parameters: dict[str, Tensor], of: Stage) -> Optimizer:
        optimizer = own(self, parameters, of)

        def note(one: Optimizer, args: Any, kwargs: Any) -> None:
            steps.append((one.param_groups[0]["lr"], {name: bool(one.state[p]) for name, p in parameters.items()}))

        optimizer.register_step_pre_hook(note)
        return optimizer

    monkeypatch.setattr(Recipe, "optimizer", watched)
    return steps


Made = list[tuple[float, dict[str, bool]]]


def test_the_rate_follows_one_curve_and_each_stages_factor(made: Made) -> None:
    stages = [stage(0.25), stage(0.25, learning_rate=0.1), stage(0.25, restarts=True), stage(0.25, adam=0.5)]
    train(network(), SPLITS.train, stages, RECIPE, 0)
    first = [RECIPE.factor(step, 6) * RECIPE.learning_rate * (1 if step < 3 else 0.1) for step in range(6)]
    last = [RECIPE.factor(step, 6, rises=False) * (RECIPE.learning_rate if step < 3 else 0.5) for step in range(6)]
    assert [rate for rate, _ in made] == pytest.approx(first + last)


@pytest.mark.parametrize(
    ("more", "carries"),
    [({}, True), ({"learning_rate": 0.1}, True), ({"restarts": True}, False), ({"adam": 1e-3}, False)],
)
def test_momentum_carries_over_on_one_curve_alone(more: dict[str, Any], carries: bool, made: Made) -> None:
    train(network(), SPLITS.train, [stage(0.5), stage(0.5, **more)], RECIPE, 0)
    assert len(made) == 12
    assert not any(made[0][1].values())
    assert all(made[1][1].values())
    assert set(made[6][1].values()) == {carries}


def test_what_did_not_learn_before_begins_without_momentum(made: Made) -> None:
    train(network(), SPLITS.train, [stage(0.5, learns=("*classifier*", "*fc*", "*linear*")), stage(0.5)], RECIPE, 0)
    first, second = made[0][1], made[6][1]
    assert 0 < len(first) < len(second)
    assert {name for name, has in second.items() if has} == set(first)


def test_a_training_cut_into_stages_is_the_training_in_one() -> None:
    trained = []
    for stages in ([stage(1.0)], [stage(0.5), stage(0.25), stage(0.25)]):
        net = network()
        train(net, SPLITS.train, stages, RECIPE, 3)
        trained.append(net.state_dict())
    assert all(torch.equal(trained[0][name], trained[1][name]) for name in trained[0])


def seen(stages: Sequence[Stage], epochs: float, spent: float) -> list[list[int]]:
    split = Recording(SPLITS.train)
    logs = train(network(), split, stages, Recipe(epochs=epochs, batch_size=32), 3, spent=spent)
    assert sum(log.epochs for log in logs) == pytest.approx(len(split.seen) / 3)
    return split.seen


@pytest.mark.parametrize(("epochs", "spent", "steps"), [(4, 0.0, 12), (4, 0.5, 6), (4, 0.25, 9), (8, 0.75, 6)])
def test_what_was_spent_before_is_no_longer_there_and_batches_go_on_behind_it(
    epochs: float, spent: float, steps: int
) -> None:
    whole = seen([stage(1.0)], epochs, 0.0)
    rest = seen([stage(0.5), stage(0.5)], epochs, spent)
    assert len(rest) == steps
    assert rest == whole[-steps:]


@pytest.mark.parametrize(("epochs", "spent", "steps"), [(3, 0.5, 5), (1, 0.5, 1), (0.3, 0.5, 1)])
def test_a_share_that_ends_within_an_epoch_begins_with_the_next(epochs: float, spent: float, steps: int) -> None:
    rest = seen([stage(1.0)], epochs, spent)
    assert len(rest) == steps
    begun = seen([stage(1.0)], -(-epochs * spent // 1) + 2, 0.0)[3 * int(-(-epochs * spent // 1)) :]
    assert rest == begun[:steps]


def check(stages: list[Stage], epochs: float, spent: float = 0.0) -> None:
    check_budget(stages, Recipe(epochs=epochs, batch_size=32), 100, spent, "m(a=1)")  # 3 steps an epoch


def test_a_budget_that_holds_what_stages_need_is_taken() -> None:
    check([stage(0.5, epochs=1.0), stage(0.5)], 2.0)
    check([stage(1 / 3, epochs=1.0)] * 3, 3.0)
    check([stage(0.5, epochs=1.0), stage(0.5)], 4.0, spent=0.5)
    check([stage(0.1)] * 3, 1.0)
    check([stage(1.0)], 0.2)


@pytest.mark.parametrize(
    ("epochs", "spent", "has", "needs"), [(1.9, 0.0, "0.95", 2), (0.5, 0.0, "0.25", 2), (3.0, 0.5, "0.75", 4)]
)
def test_a_smaller_budget_is_refused_in_one_line_that_says_what_is_needed(
    epochs: float, spent: float, has: str, needs: int
) -> None:
    with pytest.raises(InvalidValue) as caught:
        check([stage(0.5), stage(0.5, epochs=1.0)], epochs, spent)
    assert str(caught.value) == (
        f"m(a=1): stage 'one' has {has} epochs of the budget and needs 1; give a budget of {needs} epochs"
    )


@pytest.mark.parametrize(
    ("epochs", "spent", "count", "left", "least"),
    [(0.1, 0.0, 1, 0, "0.34"), (0.5, 0.0, 3, 2, "1"), (0.5, 0.5, 2, 1, "2"), (2.0, 0.99, 1, 0, "66.67")],
)
def test_fewer_steps_than_stages_are_refused_before_training_and_by_training(
    epochs: float, spent: float, count: int, left: int, least: str
) -> None:
    line = (
        f"a budget of {epochs:g} epochs on 96 images leaves {left} steps of 32 images for {count} stages of training; "
        f"give {least} epochs or more"
    )
    recipe, stages = Recipe(epochs=epochs, batch_size=32), [stage(0.1)] * count
    with pytest.raises(InvalidValue) as caught:
        check_budget(stages, recipe, 96, spent, "m(a=1)")
    assert str(caught.value) == f"m(a=1): {line}"
    with pytest.raises(InvalidValue) as caught:
        train(network(), SPLITS.train, stages, recipe, seed=0, spent=spent)
    assert str(caught.value) == line
    check_budget(stages, Recipe(epochs=float(least), batch_size=32), 96, spent, "m(a=1)")
