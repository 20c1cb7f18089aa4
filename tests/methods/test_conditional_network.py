"""Conditional network as a method: the tree's shape and price, its filter groups and its loss, against hand counts."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from dyncomp import build, create_method
from dyncomp.core import Decision, Output, Trace
from dyncomp.errors import CannotAttach, InvalidValue
from dyncomp.methods.conditional_network import ConditionalNetwork, evenness, leaf_chances
from dyncomp.ops import categorical_information

SMALL = {"classes": 6, "image_size": 16}


@pytest.mark.parametrize(("depth", "children"), [(1, 2), (2, 2), (2, 3), (3, 2)])
@torch.no_grad()
def test_a_tree_has_a_router_at_every_inner_node_and_a_path_per_leaf(depth: int, children: int) -> None:
    net = build(f"conditional_network(depth={depth}, children={children})", "cifar_resnet14", **SMALL)
    assert len(net.sites) == sum(children**level for level in range(depth))
    output = net(torch.randn(4, 3, 16, 16))
    assert leaf_chances(output.trace).shape == (4, children**depth)
    assert output.trace.routes().sum(1).tolist() == [depth] * 4  # one child at each level


@pytest.mark.parametrize("implicit", [1, 2, 4])
@torch.no_grad()
def test_an_image_costs_trunk_routers_and_one_path(implicit: int) -> None:
    spec = f"conditional_network(depth=2, children=2, after=(1, 2), hidden=5, implicit={implicit})"
    net = build(spec, "cifar_resnet8", classes=6, image_size=32)
    pixels = 32 * 32
    trunk = pixels * 3 * 16 * 9 + pixels * 2 * 16 * 16 * 9
    stage2 = pixels // 4 * (16 * 32 * 9 + 32 * 32 * 9 + 16 * 32) // implicit
    stage3 = pixels // 16 * (32 * 64 * 9 + 64 * 64 * 9 + 32 * 64) // implicit
    routers = (16 * 5 + 5 * 2) + (32 * 5 + 5 * 2)
    by_hand = trunk + stage2 + stage3 + routers + 64 * 6
    assert net(torch.randn(4, 3, 32, 32)).macs().tolist() == [by_hand] * 4


def test_filter_groups_are_the_later_blocks_only_where_channels_allow() -> None:
    net = build("conditional_network(depth=1, children=2, after=(1,), implicit=2)", "cifar_resnet8", **SMALL)
    convs = {name: part for name, part in net.named_modules() if isinstance(part, nn.Conv2d)}
    assert {part.groups for name, part in convs.items() if "split" not in name} == {1}
    assert {part.groups for name, part in convs.items() if "split" in name} == {2}
    odd = build("conditional_network(depth=1, children=2, after=(1,), implicit=5)", "cifar_resnet8", **SMALL)
    assert {part.groups for part in odd.modules() if isinstance(part, nn.Conv2d)} == {1}


@pytest.mark.parametrize(("after", "begin"), [("", 1), ("after=(2,), ", 2), ("after=(0,), ", 0)])
def test_without_routers_it_is_the_static_network_in_filter_groups(after: str, begin: int) -> None:
    method = create_method(f"conditional_network(depth=0, {after}implicit=4)")
    net = build(method, "cifar_resnet8", classes=6, image_size=32)
    pixels = 32 * 32
    stage1 = pixels * 2 * 16 * 16 * 9
    stage2 = pixels // 4 * (16 * 32 * 9 + 32 * 32 * 9 + 16 * 32)
    stage3 = pixels // 16 * (32 * 64 * 9 + 64 * 64 * 9 + 32 * 64)
    blocks = sum(macs // (4 if at >= begin else 1) for at, macs in enumerate((stage1, stage2, stage3)))
    assert net.costs is not None
    assert (list(net.sites), net.costs.full) == ([], pixels * 3 * 16 * 9 + blocks + 64 * 6)
    output = net.train()(torch.randn(4, 3, 32, 32))
    labels = torch.arange(4)
    (stage,) = method.stages()
    assert stage.adjust is not None
    stage.adjust(net, 0.5)
    torch.testing.assert_close(stage.loss(output, labels, 0.5), nn.functional.cross_entropy(output.logits, labels))


def by_hand_tree() -> tuple[Trace, list[list[float]]]:
    """A root and two routers below it, two images; and their leaves' chances."""
    root, left, right = [[0.75, 0.25], [0.5, 0.5]], [[0.5, 0.5], [0.25, 0.75]], [[1.0, 0.0], [0.5, 0.5]]
    decisions = {
        site: Decision(*[torch.tensor(chances)] * 3) for site, chances in (("r", root), ("r.0", left), ("r.1", right))
    }
    leaves = [[0.375, 0.375, 0.25, 0.0], [0.125, 0.375, 0.25, 0.25]]
    return Trace(decisions, {"r": None, "r.0": ("r", 0), "r.1": ("r", 1)}, 2), leaves


def entropy(chances: list[float]) -> float:
    return -sum(p * math.log(p) for p in chances if p)


@pytest.mark.parametrize(("progress", "settled"), [(0.0, 0.0), (0.25, 0.5), (0.5, 1.0), (1.0, 1.0)])
def test_the_loss_by_hand(progress: float, settled: float) -> None:
    trace, leaves = by_hand_tree()
    torch.testing.assert_close(leaf_chances(trace), torch.tensor(leaves))
    even = entropy([(a + b) / 2 for a, b in zip(*leaves, strict=True)])
    unsure = sum(map(entropy, leaves)) / 2
    loss = ConditionalNetwork(balance=0.7).stages()[0].loss
    ours = loss(Output(torch.zeros(2, 3), trace, None), torch.tensor([0, 1]), progress)
    assert float(ours) == pytest.approx(math.log(3) - 0.7 * (even - settled * unsure), abs=1e-4)


@pytest.mark.parametrize("units", [2, 4, 16])
def test_information_is_that_of_the_choice(units: int) -> None:
    sure = torch.eye(units).repeat(3, 1)
    assert float(categorical_information(sure)) == pytest.approx(math.log(units), abs=1e-3)
    assert float(categorical_information(torch.full((8, units), 1 / units))) == pytest.approx(0, abs=1e-5)
    alike = torch.eye(units)[:1].repeat(8, 1).requires_grad_()
    information = categorical_information(alike)
    assert float(information.detach()) == pytest.approx(0, abs=1e-5)
    assert bool(torch.autograd.grad(information, alike)[0].isfinite().all())
    assert float(evenness(sure)) == pytest.approx(math.log(units), abs=1e-4)


@pytest.mark.parametrize(("progress", "soft"), [(0.0, 1.0), (0.5, 0.5), (1.0, 0.02)])
def test_training_moves_from_all_children_to_the_best(progress: float, soft: float) -> None:
    net = build("conditional_network(depth=1, children=3)", "cifar_resnet8", **SMALL)
    stage = ConditionalNetwork(depth=1, children=3).stages()[0]
    assert stage.adjust is not None
    stage.adjust(net, progress)
    decision = next(iter(net.train()(torch.randn(4, 3, 16, 16)).trace.values()))
    best = nn.functional.one_hot(decision.probability.argmax(1), 3)
    torch.testing.assert_close(decision.weight, soft * decision.probability + (1 - soft) * best)


@pytest.mark.parametrize(
    ("spec", "backbone", "said"),
    [
        ("conditional_network(depth=4)", "cifar_resnet8", r"depth=4 of cifar_resnet8\S* 3 blocks"),
        ("conditional_network(depth=1, after=(3,))", "cifar_resnet8", r"after=\(3,\) of cifar_resnet8\S* 3 blocks"),
        ("conditional_network", "msdnet(blocks=3, base=2, step=1, channels=8, head=16)", "msdnet.* several maps"),
    ],
)
def test_where_there_is_no_place_the_reason_is_said(spec: str, backbone: str, said: str) -> None:
    with pytest.raises(CannotAttach, match=said):
        build(spec, backbone, **SMALL)


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ("conditional_network(children=2, most=3)", "most=3 of 2 children"),
        ("conditional_network(depth=2, after=(2,))", r"after=\(2,\) for depth=2"),
        ("conditional_network(depth=2, after=(2, 1))", r"after=\(2, 1\) for depth=2"),
        ("conditional_network(depth=0, after=(1, 2))", r"after=\(1, 2\) for depth=0; give 1 numbers"),
        ("conditional_network(depth=0, implicit=1)", "depth=0 and implicit=1 route nothing"),
    ],
)
def test_wrong_values_are_said_in_one_line(spec: str, said: str) -> None:
    with pytest.raises(InvalidValue, match=said):
        create_method(spec)
