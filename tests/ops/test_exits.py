"""Judges of exits and ensembles of voters, against counts by hand."""

from __future__ import annotations

import copy
from collections import Counter

import pytest
import torch
from torch import Tensor, nn

from dyncomp.core import Net
from dyncomp.ops.exits import Agreement, Ensemble
from tests.small import CLASSES, C, images

COUNT = 3


def member() -> nn.Module:
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(C, CLASSES))


def ensemble(combine: str, seed: int = 0) -> tuple[Net, list[nn.Module]]:
    torch.manual_seed(seed)
    members = [member() for _ in range(COUNT)]
    return Net(Ensemble(members, combine)).double().eval(), members  # type: ignore[arg-type]


def elected(votes: list[int], chances: Tensor) -> int:
    """The class with the most votes; of those that tie, the one with the greatest mean probability (M, Y)."""
    counts = Counter(votes)
    most = max(counts.values())
    return max((c for c in counts if counts[c] == most), key=lambda c: float(chances[:, c].mean()))


@torch.no_grad()
@pytest.mark.parametrize("seed", range(3))
def test_the_majority_decides_and_ties_go_to_the_more_probable(seed: int) -> None:
    net, members = ensemble("majority", seed)
    many = images(60, seed)
    chances = torch.stack([own(many).softmax(1) for own in members])  # (M, B, Y)
    votes = chances.argmax(2)
    expected = [elected(votes[:, i].tolist(), chances[:, i]) for i in range(60)]
    assert net(many).logits.argmax(1).tolist() == expected


@torch.no_grad()
def test_the_average_is_the_mean_of_the_probabilities() -> None:
    net, members = ensemble("average")
    mean = sum(own(images()).softmax(1) for own in members) / COUNT
    for sparse in (False, True):
        torch.testing.assert_close(net(images(), sparse=sparse).logits.softmax(1), mean, rtol=0, atol=1e-12)


@torch.no_grad()
@pytest.mark.parametrize("only", range(COUNT))
def test_one_member_can_train_alone_and_evaluation_asks_all(only: int) -> None:
    net, members = ensemble("average")
    before = net(images()).logits
    net.model.only = only
    said = net.train()(images()).said
    assert list(said) == [f"voters.{only}"]
    torch.testing.assert_close(said[f"voters.{only}"], members[only](images()))
    assert torch.equal(net.eval()(images()).logits, before)
    assert torch.equal(copy.deepcopy(net)(images()).logits, before)


@torch.no_grad()
@pytest.mark.parametrize("asked", [1, 2, 3])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_agreement_is_the_mean_probability_of_the_class_that_all_vote_for(asked: int, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    members = [member() for _ in range(asked)]
    net = Net(Ensemble(members, "majority")).to(dtype).eval()
    many = images(80).to(dtype)
    answer, score = Agreement()(net(many).logits)
    assert torch.equal(answer, net(many).logits)
    chances = torch.stack([own(many).softmax(1) for own in members])  # (M, B, Y)
    for i in range(80):
        votes = set(chances[:, i].argmax(1).tolist())
        if len(votes) == 1:
            assert float(score[i]) == pytest.approx(float(chances[:, i, votes.pop()].mean()), abs=1e-3)
        else:
            assert score[i] < 0
    assert bool((score > 0).any())
    assert bool((score < 0).any()) == (asked > 1)


@pytest.mark.parametrize("combine", ["average", "majority"])
def test_sure_members_leave_every_share_finite_with_a_gradient(combine: str) -> None:
    net, members = ensemble(combine)
    with torch.no_grad():
        for own in members:
            own[2].weight.mul_(1e4)  # softmax gives exact zeros
    logits = net(images(20), sparse=False).logits
    assert bool(logits.isfinite().all())
    assert len(torch.unique(logits.detach(), dim=0)) == 20
    (gradient,) = torch.autograd.grad(logits.log_softmax(1)[:, 0].sum(), [members[0][2].weight])
    assert bool(gradient.isfinite().all())
    assert bool(gradient.any())
