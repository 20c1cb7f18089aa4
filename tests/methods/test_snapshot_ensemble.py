"""Snapshots: the cycles of the rate, who trains in each, and what goes from one to the next."""

from __future__ import annotations

import math

import pytest
import torch
from torch.optim import SGD

from dyncomp import build, create_method
from dyncomp.core import Net
from dyncomp.errors import InvalidValue
from dyncomp.ops import Voter
from dyncomp.train import Recipe, check_budget
from dyncomp.train.loop import curves_of

SMALL = {"classes": 5, "image_size": 16}
IMAGES = torch.randn(6, 3, 16, 16, generator=torch.Generator().manual_seed(0))


def states(net: Net) -> list[dict[str, torch.Tensor]]:
    voters = [module for module in net.modules() if isinstance(module, Voter)]
    return [{name: value.clone() for name, value in voter.state_dict().items()} for voter in voters]


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize(("cycles", "members"), [(5, 3), (4, 4), (3, 1)])
def test_the_last_cycles_have_a_member_each(cycles: int, members: int) -> None:
    stages = create_method(f"snapshot_ensemble(cycles={cycles}, members={members})").stages()
    trained = [int(stage.learns[0].split(".")[2]) for stage in stages]
    assert trained == [0] * (cycles - members) + list(range(members))
    assert [stage.share for stage in stages] == [1 / cycles] * cycles


@pytest.mark.parametrize("restart", [1.0, 4.0])
def test_the_rate_is_the_papers_at_every_step(restart: float) -> None:
    """a(t) = a0 / 2 * (cos(pi * mod(t, T/M) / (T/M)) + 1), equation 2 with t from 0."""
    steps = [8, 5]
    recipe = Recipe(epochs=1)
    stages = create_method(f"snapshot_ensemble(cycles=2, members=2, restart={restart})").stages()
    for stage, count, curve in zip(stages, steps, curves_of(stages, steps), strict=True):
        optimizer = recipe.optimizer({"w": torch.nn.Parameter(torch.zeros(2, 2))}, stage)
        assert isinstance(optimizer, SGD)
        assert curve == (0, count, False)
        for step in range(count):
            rate = optimizer.param_groups[0]["lr"] * recipe.factor(step, curve.steps, curve.rises)
            assert rate == pytest.approx(recipe.learning_rate * restart / 2 * (math.cos(math.pi * step / count) + 1))


def test_a_budget_with_less_than_an_epoch_for_each_cycle_is_refused() -> None:
    stages = create_method("snapshot_ensemble(cycles=4, members=2)").stages()
    check_budget(stages, Recipe(epochs=4.0), 6400, 0.0, "snapshot")
    with pytest.raises(InvalidValue, match=r"^snapshot: stage 'cycle 1' has 0.75 epochs .* give a budget of 4 epochs"):
        check_budget(stages, Recipe(epochs=3.0), 6400, 0.0, "snapshot")


def test_each_member_goes_on_from_the_one_before_and_leaves_it_alone() -> None:
    method = create_method("snapshot_ensemble(cycles=3, members=2)")
    net = build(method, "cifar_resnet8", **SMALL)
    began = []
    ended: list[dict[str, torch.Tensor]] = []
    for stage in method.stages():
        assert stage.prepare is not None
        stage.prepare(net, list)
        member = int(stage.learns[0].split(".")[2])
        began.append(states(net)[member])
        net.train()(IMAGES)  # its statistics move
        with torch.no_grad():
            for name, parameter in net.named_parameters():
                if stage.trains(name):
                    parameter.add_(1.0)
        ended.append(states(net)[member])
    assert same(began[1], ended[0])
    assert same(began[2], ended[1])
    assert not same(began[2], ended[2])
    assert same(states(net)[0], ended[1])
    assert same(states(net)[1], ended[2])


@torch.no_grad()
def test_all_members_answer_whichever_trains() -> None:
    method = create_method("snapshot_ensemble(cycles=3, members=3)")
    net = build(method, "cifar_resnet8", **SMALL).double()
    one = build("static", "cifar_resnet8", **SMALL).costs
    assert one is not None
    assert net.costs is not None
    assert net.costs.full == 3 * one.full
    for stage in method.stages():
        assert stage.prepare is not None
        stage.prepare(net, list)
        members = [module.member for module in net.modules() if isinstance(module, Voter)]
        mean = sum(member(IMAGES.double()).softmax(1) for member in members) / 3
        torch.testing.assert_close(net(IMAGES.double()).logits.softmax(1), mean, rtol=0, atol=1e-12)


def test_more_members_than_cycles_are_refused() -> None:
    with pytest.raises(InvalidValue, match=r"^snapshot_ensemble: members=4, but cycles=3 .* from 1 to 3$"):
        create_method("snapshot_ensemble(cycles=3, members=4)")
