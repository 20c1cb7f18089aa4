"""Early exits as a method: where they stand, what heads cost, the joint loss and the points against hand counts."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from dyncomp import build, create_method
from dyncomp.core import Net, Output, Seen, Source
from dyncomp.core.decisions import all_on
from dyncomp.core.initial import PLAIN
from dyncomp.errors import CannotAttach, InvalidValue
from dyncomp.methods.early_exit import EarlyExit, side_head
from dyncomp.registry import BACKBONES

SMALL = {"classes": 5, "image_size": 16}
MSDNET = "msdnet(blocks=3, base=2, step=1, channels=8, head=16)"


def blocks_behind(net: Net, backbone: str) -> list[int]:
    """How many blocks of the plain backbone are behind each exit, by the parameters in its rest."""
    plain = BACKBONES.create(backbone).build(5, 3, 16)
    first = {name: next(iter(plain.part(name).state_dict())) for name in plain.blocks}
    counts = []
    for site in net.sites:
        inside = {old for new, old in net.origins.items() if new.startswith(f"model.{site}.rest.")}
        counts.append(sum(f"{name}.{key}" in inside for name, key in first.items()))
    return counts


@pytest.mark.parametrize(
    ("spec", "backbone", "behind"),
    [
        ("early_exit", "cifar_resnet14", [5, 4, 2]),  # 6 blocks
        ("early_exit", "cifar_resnet8", [2, 1]),
        ("early_exit(after=(1, 2, 5))", "cifar_resnet14", [5, 4, 1]),
        ("early_exit", MSDNET, [2, 1]),  # a head of its own behind each block but the last
        ("early_exit(after=(2,))", MSDNET, [1]),
    ],
)
def test_where_exits_stand(spec: str, backbone: str, behind: list[int]) -> None:
    assert blocks_behind(build(spec, backbone, **SMALL), backbone) == behind


@pytest.mark.parametrize(
    ("spec", "backbone", "said"),
    [
        ("early_exit(after=(3,))", "cifar_resnet8", r"after=\(3,\) in cifar_resnet8.* blocks 1, 2$"),
        ("early_exit(weights=(1.0, 1.0))", "cifar_resnet14", "2 weights for 3 exits in cifar_resnet14; give 4"),
        ("early_exit(after=(3,))", MSDNET, r"after=\(3,\) in msdnet"),
    ],
)
def test_what_does_not_fit_the_backbone_is_said(spec: str, backbone: str, said: str) -> None:
    with pytest.raises(CannotAttach, match=said):
        build(spec, backbone, **SMALL)


@pytest.mark.parametrize("spec", ["after=(2, 1)", "after=(1, 1)", "after=()", "after=(0,)", "threshold=-1.0"])
def test_wrong_values_are_said_in_one_line(spec: str) -> None:
    with pytest.raises(InvalidValue) as caught:
        create_method(f"early_exit({spec})")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("side", [8, 16])
def test_a_convolutional_head_costs_three_eighths_of_a_basic_block(side: int) -> None:
    net = build("early_exit(after=(2,))", "cifar_resnet14", classes=5, image_size=side)
    assert net.costs is not None
    (cost,) = net.costs.sites.values()
    block = 2 * 9 * 16 * 16 * side * side
    assert cost.overhead == 3 * block // 8 + 32 * 5


@pytest.mark.parametrize("convolved", [True, False])
@pytest.mark.parametrize("channels", [3, 100])
def test_heads_answer_features_of_any_size(convolved: bool, channels: int) -> None:
    head = side_head(channels, 7, convolved).eval()
    for side in (1, 2, 5):
        assert head(torch.randn(2, channels, side, side)).shape == (2, 7)
    widths = [m.out_channels for m in head.modules() if isinstance(m, nn.Conv2d)]
    assert widths == [min(2 * channels, 128)] * 2 * convolved


@pytest.mark.parametrize("weights", [None, (1.0, 0.5, 0.3)])
def test_the_loss_is_the_weighted_sum_over_exits_and_end(weights: tuple[float, ...] | None) -> None:
    net = build(EarlyExit(after=(1, 2), weights=weights), "cifar_resnet8", **SMALL).train()
    labels = torch.arange(6) % 5
    output = net(torch.randn(6, 3, 16, 16, generator=torch.Generator().manual_seed(0)))
    answers: list[Tensor] = [output.said[site] for site in net.sites] + [output.logits]
    by_hand = 0.0
    for weight, answer in zip(weights or (1.0, 1.0, 1.0), answers, strict=True):
        chances = [row[label].exp() / row.exp().sum() for row, label in zip(answer.detach(), labels, strict=True)]
        by_hand += weight * sum(-math.log(float(chance)) for chance in chances) / 6
    loss = EarlyExit(after=(1, 2), weights=weights).stages()[-1].loss(output, labels, 0.5)
    assert float(loss.detach()) == pytest.approx(by_hand, rel=1e-5)


@pytest.mark.parametrize("criterion", ["confidence", "entropy"])
@torch.no_grad()
def test_a_given_threshold_is_a_confidence_or_an_entropy(criterion: str) -> None:
    x = torch.randn(40, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    method = f"early_exit(after=(1,), criterion={criterion!r}, threshold=%s)"
    probe = build(method % 0.5, "cifar_resnet8", **SMALL)
    chances = probe(x, sparse=False).said[next(iter(probe.sites))].softmax(1)
    measure = chances.amax(1) if criterion == "confidence" else -(chances * chances.log()).sum(1)
    limit = (float(measure.sort().values[19]) + float(measure.sort().values[20])) / 2
    net = build(method % limit, "cifar_resnet8", **SMALL)
    (used,) = (d.used[:, 0] for d in net(x).trace.values())
    leave = measure > limit if criterion == "confidence" else measure < limit
    assert torch.equal(used < 0.5, leave)
    assert int(leave.sum()) == 20


def observed(net: Net) -> tuple[Seen, Output]:
    x = torch.randn(30, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        output = net(x, sparse=False, decisions=all_on(net, 30))
    return Seen(torch.arange(30) % 5, output.logits, output.said), output


def test_points_begin_with_the_default() -> None:
    net = build("early_exit", "cifar_resnet14", **SMALL)
    points = EarlyExit().points(net, observed(net)[0])
    assert [p.kind for p in points][:6] == ["default", *["anytime"] * 4, "budgeted"]
    assert all(set(p.thresholds) == set(net.sites) for p in points)
    fixed, *others = EarlyExit(criterion="entropy", threshold=0.4).points(net, observed(net)[0])
    assert list(fixed.thresholds.values()) == [-0.4] * 3
    assert others == list(points[1:])


@pytest.mark.parametrize("share", [0.0, 0.25])
def test_it_begins_from_the_plain_backbone_trained_for_a_share_of_the_budget(share: float) -> None:
    method = EarlyExit(pretraining=share)
    assert method.sources() == ({PLAIN: Source("static", share=share, counted=share)} if share else {})
    assert [(stage.name, stage.share, stage.learns) for stage in method.stages()] == [("joint", 1.0, ("*",))]
    net, plain = build(method, "cifar_resnet14", **SMALL), build("static", "cifar_resnet14", seed=1, **SMALL)
    method.inherit(net, {PLAIN: plain} if share else {}, list)
    x = torch.randn(4, 3, 16, 16)
    end, alone = (one(x, sparse=False, decisions=all_on(one, 4)).logits for one in (net, plain))
    assert torch.allclose(end, alone, atol=1e-5) == (share > 0)
