"""HydraNet as a method: where it is cut, how classes are shared out, its loss and its price against hand counts."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from dyncomp import build, create_method
from dyncomp.core import Decision, Net, Output, Trace
from dyncomp.core.initial import PLAIN
from dyncomp.errors import CannotAttach, InvalidValue
from dyncomp.methods._partition import balanced_partition
from dyncomp.methods.hydranet import Gate, HydraNet, divide_classes
from dyncomp.ops import Routed
from dyncomp.train import load_checkpoint, save_checkpoint

SMALL = {"classes": 6, "image_size": 16}


def gate_of(net: Net) -> Gate:
    (gate,) = (module for module in net.modules() if isinstance(module, Gate))
    return gate


@pytest.mark.parametrize(
    ("backbone", "first", "kept"),
    [
        ("cifar_resnet14", "stages_2_0", 1),
        ("resnet18", "layer4_0", 1),
        ("mobilenet_v2", "features_14", 2),  # 15 and 16 have a shortcut and keep the shape, 17 widens
        ("vgg11(width=0.125, norm='batch')", "blocks_6", 2),  # behind the last pooling but one
    ],
)
def test_branches_are_the_last_stage_without_what_keeps_its_shape(backbone: str, first: str, kept: int) -> None:
    net = build("hydranet(branches=3)", backbone, **SMALL)
    (op,) = net.sites.values()
    assert isinstance(op, Routed)
    assert len(op.branches) == 3
    for branch in op.branches:
        names = [name for name, _ in branch.named_children()]
        assert names[0] == first
        blocks = [name for name in names if name.replace("_", ".", 1).startswith(first.rpartition("_")[0][:6])]
        assert sum(name != "features_18" for name in blocks) == kept
    whole = build("hydranet(branches=3, slim=False)", backbone, **SMALL)
    assert sum(p.numel() for p in whole.parameters()) >= sum(p.numel() for p in net.parameters())


@pytest.mark.parametrize("top", [1, 2, 3])
@torch.no_grad()
def test_an_image_costs_stem_gate_branches_and_prediction(top: int) -> None:
    net = build(f"hydranet(branches=3, top={top}, slim=False)", "cifar_resnet8", classes=6, image_size=32)
    pixels = 32 * 32
    stem = pixels * 3 * 16 * 9 + pixels * 2 * 16 * 16 * 9
    stage2 = pixels // 4 * (16 * 32 * 9 + 32 * 32 * 9 + 16 * 32)
    stage3 = pixels // 16 * (32 * 64 * 9 + 64 * 64 * 9 + 32 * 64)
    by_hand = stem + stage2 + (stage3 + 64 * 3) + top * (stage3 + 64 * 64) + 64 * 6
    assert net(torch.randn(4, 3, 32, 32)).macs().tolist() == [by_hand] * 4


@pytest.mark.parametrize(("classes", "groups"), [(10, 5), (10, 4), (10, 3), (7, 2), (5, 5), (3, 5), (100, 7)])
@pytest.mark.parametrize("seed", range(3))
def test_every_branch_gets_its_share_of_the_classes(classes: int, groups: int, seed: int) -> None:
    means = torch.randn(classes, 8, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    partition = balanced_partition(means, groups)
    sizes = partition.bincount(minlength=groups).tolist()
    assert len(sizes) == groups
    assert set(sizes) <= {classes // groups, -(-classes // groups)}
    assert torch.equal(partition, balanced_partition(means, groups))


def test_classes_that_are_alike_share_a_branch() -> None:
    line = torch.tensor([0.0, 10.0, 0.1, 10.1, 20.0, 20.2], dtype=torch.float64)[:, None]
    partition = balanced_partition(line, 3).tolist()
    assert partition[0] == partition[2]
    assert partition[1] == partition[3]
    assert partition[4] == partition[5]
    assert sorted({*partition}) == [0, 1, 2]


def test_a_full_branch_turns_the_farthest_class_away() -> None:
    line = torch.tensor([0.0, 1.0, 2.4, 50.0], dtype=torch.float64)[:, None]  # k-means alone: three and one
    partition = balanced_partition(line, 2).tolist()
    assert partition[2] == partition[3] != partition[0] == partition[1]


def test_the_partition_is_that_of_the_class_means_and_survives_a_checkpoint(tmp_path) -> None:  # type: ignore[no-untyped-def]
    net = build("hydranet(branches=3)", "cifar_resnet8", **SMALL)
    prototypes = torch.randn(3, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 3
    labels = torch.arange(6).repeat(5)
    images = prototypes[labels % 3] + 0.01 * torch.randn(30, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    batches = [(images[:10], labels[:10]), (images[10:], labels[10:])]
    divide_classes(net, build("static", "cifar_resnet8", **SMALL), lambda: batches)
    partition = gate_of(net).partition
    assert torch.equal(partition[:3], partition[3:])  # classes 0 and 3 look alike, and so on
    assert len(partition.unique()) == 3
    save_checkpoint(net, tmp_path / "net.safetensors", {})
    other = build("hydranet(branches=3)", "cifar_resnet8", **SMALL)
    load_checkpoint(other, tmp_path / "net.safetensors")
    assert torch.equal(gate_of(other).partition, partition)


@pytest.mark.parametrize("backbone", ["cifar_resnet8", "vgg11(width=0.125, norm='batch')"])
@torch.no_grad()
def test_the_partition_is_by_what_the_plain_backbones_last_layer_reads(backbone: str) -> None:
    net, plain = (build(name, backbone, seed=3, **SMALL).double() for name in ("hydranet(branches=3)", "static"))
    images = torch.randn(60, 3, 16, 16, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    labels = torch.arange(60) % 6
    last = [module for module in plain.modules() if isinstance(module, nn.Linear)][-1]
    read: list[Tensor] = []
    handle = last.register_forward_pre_hook(lambda layer, given: read.append(given[0]))
    plain(images)
    handle.remove()
    means = torch.stack([read[0][labels == label].mean(0) for label in range(6)])
    before = {name: value.clone() for name, value in plain.state_dict().items()}
    divide_classes(net, plain.train(), lambda: [(images[:25], labels[:25]), (images[25:], labels[25:])])
    assert torch.equal(gate_of(net).partition, balanced_partition(means, 3))
    assert plain.training
    assert not last._forward_pre_hooks
    assert all(torch.equal(value, before[name]) for name, value in plain.state_dict().items())


def test_it_begins_with_the_plain_backbones_weights_and_partition() -> None:
    method = create_method("hydranet(branches=2, slim=False)")
    net, plain = build(method, "cifar_resnet8", **SMALL), build("static", "cifar_resnet8", seed=3, **SMALL)
    batches = [(torch.randn(30, 3, 16, 16), torch.arange(30) % 6)]
    method.inherit(net, {PLAIN: plain}, lambda: batches)
    theirs = plain.state_dict()
    assert net.origins
    assert all(
        torch.equal(value, theirs[f"model.model.{net.origins[name]}"])
        for name, value in net.state_dict().items()
        if name in net.origins
    )
    other = build(method, "cifar_resnet8", **SMALL)
    divide_classes(other, plain, lambda: batches)
    assert torch.equal(gate_of(net).partition, gate_of(other).partition)


def test_the_gated_loss_by_hand() -> None:
    scores = torch.tensor([[0.0, math.log(3.0)], [math.log(4.0), 0.0]])
    partition = torch.tensor([1, 0, 1])
    logits = torch.zeros(2, 3)
    even = Decision(*[torch.full((2, 2), 0.5)] * 3)
    said = {"model.b": scores, "model.b.gate": partition.expand(2, -1)}
    output = Output(logits, Trace({"model.b": even}, {"model.b": None}, 2), None, said)
    method, labels = HydraNet(gate_weight=2.0), torch.tensor([2, 0])
    (stage,) = method.stages()
    gate = -(math.log(3 / 4) + math.log(1 / 5)) / 2  # both labels belong to branch 1
    assert float(stage.loss(output, labels, 0.5)) == pytest.approx(math.log(3) + 2 * gate, rel=1e-6)
    assert float(method.loss(output, labels)) == pytest.approx(math.log(3), rel=1e-6)


@pytest.mark.parametrize(("progress", "soft"), [(0.0, 1.0), (0.25, 1.0), (0.5, 0.5), (0.75, 0.05), (1.0, 0.05)])
def test_weights_move_from_soft_ones_to_those_of_use(progress: float, soft: float) -> None:
    net = build("hydranet(branches=3)", "cifar_resnet8", **SMALL)
    (stage,) = HydraNet(branches=3).stages()
    assert stage.adjust is not None
    stage.adjust(net, progress)
    decision = next(iter(net.train()(torch.randn(4, 3, 16, 16)).trace.values()))
    chances: Tensor = decision.probability
    best = torch.zeros_like(chances).scatter(1, chances.topk(2).indices, 1.0) * chances
    torch.testing.assert_close(decision.weight, soft * chances + (1 - soft) * best / best.sum(1, keepdim=True))


@pytest.mark.parametrize(
    ("spec", "backbone", "said"),
    [
        ("hydranet(after=3)", "cifar_resnet8", r"after=3 of cifar_resnet8\S* 3 blocks .* give after from 0 to 2"),
        ("hydranet", "msdnet(blocks=3, base=2, step=1, channels=8, head=16)", "msdnet.* several maps at once"),
    ],
)
def test_where_there_is_no_place_the_reason_is_said(spec: str, backbone: str, said: str) -> None:
    with pytest.raises(CannotAttach, match=said):
        build(spec, backbone, **SMALL)


def test_more_branches_than_there_are_cannot_be_taken() -> None:
    with pytest.raises(InvalidValue, match="top=4 of 3 branches"):
        create_method("hydranet(branches=3, top=4)")
