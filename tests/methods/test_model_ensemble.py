"""Ensembles of independent members: their losses, prices and the cascade's thresholds."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from dyncomp import build, create_method
from dyncomp.core import Point, Seen, count_executed_macs
from dyncomp.core.decisions import all_on
from dyncomp.errors import InvalidValue
from dyncomp.methods.model_ensemble import ModelEnsemble
from dyncomp.ops import Certainty, Exit, Voter
from dyncomp.ops.exits import Agreement

SMALL = {"classes": 5, "image_size": 16}
IMAGES = torch.randn(12, 3, 16, 16, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
LABELS = torch.arange(12) % 5
SPECS = [
    "model_ensemble(members=2)",
    "model_ensemble(members=3, cascade=True)",
    'model_ensemble(members=3, combine="majority", threshold=0.5)',
]


@pytest.mark.parametrize("backbone", ["cifar_resnet8", "mobilenet_v1(width=0.25)"])
@pytest.mark.parametrize("members", [2, 4])
@pytest.mark.parametrize("cascade", [False, True])
def test_costs_members_times_one_and_no_gate(backbone: str, members: int, cascade: bool) -> None:
    one = build("static", backbone, **SMALL)
    net = build(ModelEnsemble(members=members, cascade=cascade), backbone, **SMALL)
    assert net.costs is not None
    assert one.costs is not None
    assert (net.costs.full, net.costs.overhead) == (members * one.costs.full, 0)
    assert sum(p.numel() for p in net.parameters()) == members * sum(p.numel() for p in one.parameters())


@pytest.mark.parametrize("spec", SPECS)
def test_every_member_learns_by_its_own_cross_entropy_alone(spec: str) -> None:
    method = create_method(spec)
    net = build(method, "cifar_resnet8", **SMALL).double().train()
    (stage,) = method.stages()
    loss = stage.loss(net(IMAGES), LABELS, 0.5)
    members = [module.member for module in net.modules() if isinstance(module, Voter)]
    own = [F.cross_entropy(member(IMAGES), LABELS) for member in members]
    torch.testing.assert_close(loss.double(), sum(own), rtol=1e-6, atol=0)
    for member, error in zip(members, own, strict=True):
        parameters = list(member.parameters())
        together = torch.autograd.grad(loss, parameters, retain_graph=True)
        alone = torch.autograd.grad(error, parameters, retain_graph=True)
        torch.testing.assert_close(together, alone, rtol=1e-5, atol=1e-7)


def test_members_differ_from_the_start() -> None:
    net = build("model_ensemble", "cifar_resnet8", **SMALL)
    kernels = [next(module.member.parameters()) for module in net.modules() if isinstance(module, Voter)]
    assert len(kernels) == 3
    assert not torch.equal(kernels[0], kernels[1])
    assert not torch.equal(kernels[1], kernels[2])


@pytest.mark.parametrize(
    ("spec", "judge", "threshold"),
    [(SPECS[1], Certainty, 0.9), (SPECS[2], Agreement, 0.5), ("model_ensemble(threshold=0.25)", Certainty, 0.25)],
)
def test_the_cascade_asks_one_after_the_other(spec: str, judge: type, threshold: float) -> None:
    net = build(spec, "cifar_resnet8", **SMALL)
    assert list(net.sites) == ["members", "members.rest"]
    for site in net.sites.values():
        assert isinstance(site, Exit)
        assert isinstance(site.judge, judge)
        assert float(site.threshold) == pytest.approx(threshold)


@torch.no_grad()
@pytest.mark.parametrize("asked", [1, 2, 3])
@pytest.mark.parametrize("spec", SPECS[1:])
def test_anytime_points_ask_so_many_members_of_everyone(spec: str, asked: int) -> None:
    net = build(spec, "cifar_resnet8", **SMALL).double()
    point = [point for point in points(spec, net) if point.kind == "anytime"][asked - 1]
    point.apply(net)
    one = build("static", "cifar_resnet8", **SMALL).costs
    assert one is not None
    assert count_executed_macs(net, IMAGES) == len(IMAGES) * asked * one.full


def points(spec: str, net: torch.nn.Module) -> list[Point]:
    seen = net(IMAGES, sparse=False, decisions=all_on(net, len(IMAGES)))  # type: ignore[arg-type]
    return list(create_method(spec).points(net, Seen(LABELS, seen.logits, seen.said)))  # type: ignore[arg-type]


@torch.no_grad()
def test_a_given_threshold_is_the_first_point_and_a_plain_ensemble_has_none() -> None:
    net = build(SPECS[2], "cifar_resnet8", **SMALL).double()
    assert points(SPECS[2], net)[0].thresholds == {"members": 0.5, "members.rest": 0.5}
    assert points(SPECS[0], build(SPECS[0], "cifar_resnet8", **SMALL).double()) == []


@torch.no_grad()
@pytest.mark.parametrize("tolerance", [0.0, 10.0, 40.0, 100.0])
def test_the_chosen_threshold_is_the_cheapest_that_agrees_with_all_members(tolerance: float) -> None:
    spec = f"model_ensemble(members=2, cascade=True, tolerance={tolerance})"
    net = build(spec, "cifar_resnet8", **SMALL).double()
    images = torch.randn(60, 3, 16, 16, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    seen = net(images, sparse=False, decisions=all_on(net, 60))
    both, first, score = seen.logits.argmax(1), seen.said["members"].argmax(1), seen.said["members.score"]
    fewest = 60
    for threshold in (0.0, *score.tolist()):
        leaves = score > threshold
        if int((leaves & (first != both)).sum()) <= tolerance / 100 * 60:
            fewest = min(fewest, 60 - int(leaves.sum()))
    labels = torch.zeros(60, dtype=torch.int64)  # of no account
    create_method(spec).points(net, Seen(labels, seen.logits, seen.said))[0].apply(net)
    chosen = net(images)
    assert int(chosen.trace["members"].used.sum()) == fewest
    assert int((chosen.logits.argmax(1) != both).sum()) <= tolerance / 100 * 60
    assert (fewest == 0) == (tolerance == 100.0)


@pytest.mark.parametrize(
    ("spec", "named"),
    [
        ("model_ensemble(members=1)", "members=1"),
        ("model_ensemble(threshold=1.5)", "threshold=1.5"),
        ("model_ensemble(combine='x')", "majority"),
        ("model_ensemble(tolerance=-1)", "tolerance=-1"),
    ],
)
def test_wrong_values_are_said_in_one_line(spec: str, named: str) -> None:
    with pytest.raises(InvalidValue) as caught:
        create_method(spec)
    assert named in str(caught.value)
    assert "\n" not in str(caught.value)
