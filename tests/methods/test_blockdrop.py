"""BlockDrop: reward and policy gradient spelled out, the curriculum, and the published multiply-adds."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
import torch
from torch import Tensor

from dyncomp import build
from dyncomp.core import Decision, Net, Output, Trace
from dyncomp.core.counter import MacCounter
from dyncomp.errors import CannotAttach
from dyncomp.methods._policy import Policy
from dyncomp.methods.blockdrop import BlockDrop
from dyncomp.ops import Planned

IMAGES, BLOCKS, CLASSES = 6, 4, 3
SMALL = {"classes": 5, "image_size": 16}


def test_the_reward_by_hand() -> None:
    kept = torch.tensor([[1.0, 1.0, 0.0, 0.0], [1.0, 1.0, 1.0, 1.0], [0.0, 0.0, 0.0, 0.0], [0.0, 0.0, 0.0, 1.0]])
    labels = torch.tensor([0, 1, 2, 0])
    logits = torch.eye(CLASSES)[torch.tensor([0, 1, 2, 1])]
    rewards = BlockDrop(penalty=5.0).reward(kept, logits, labels)
    assert rewards.tolist() == [1 - 0.25, 0.0, 1.0, -5.0]


def drawn(seed: int) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Chances, what was drawn, logits under that and under the thresholded policy, labels."""
    generator = torch.Generator().manual_seed(seed)
    chances = (torch.rand(IMAGES, BLOCKS, generator=generator) * 0.6 + 0.2).requires_grad_()
    kept = (torch.rand(IMAGES, BLOCKS, generator=generator) < chances).float()
    logits, greedy = (torch.randn(IMAGES, CLASSES, generator=generator) for _ in range(2))
    return chances, kept, logits, greedy, torch.arange(IMAGES) % CLASSES


@pytest.mark.parametrize("stage", [0, 1])
@pytest.mark.parametrize("seed", range(3))
def test_the_policy_gradient_is_self_critical(seed: int, stage: int) -> None:
    chances, kept, logits, greedy_logits, labels = drawn(seed)
    asked: list[Tensor] = []

    def again(decisions: Mapping[str, Decision]) -> Output:
        asked.append(decisions["plan"].used)
        return Output(greedy_logits, Trace(decisions, {"plan": None}, IMAGES), None)

    trace = Trace({"plan": Decision(kept, kept, chances)}, {"plan": None}, IMAGES)
    method = BlockDrop(penalty=2.0, balance=0.0, entropy=0.0)
    loss = method.stages()[stage].loss(Output(logits, trace, None, {}, again), labels, 1.0)
    (ours,) = torch.autograd.grad(loss, chances)
    assert torch.equal(asked[0], (chances > 0.5).float())
    by_hand = torch.zeros_like(chances)
    for i in range(IMAGES):
        rewards = []
        for answer, bits in ((logits[i], kept[i]), (greedy_logits[i], asked[0][i])):
            right = int(answer.argmax()) == int(labels[i])
            rewards.append(1 - (float(bits.sum()) / BLOCKS) ** 2 if right else -2.0)
        for k in range(BLOCKS):
            p = float(chances[i, k].detach())
            by_hand[i, k] = -(rewards[0] - rewards[1]) * (1 / p if kept[i, k] else -1 / (1 - p)) / IMAGES
    torch.testing.assert_close(ours, by_hand, rtol=1e-4, atol=1e-5)


def plan_of(net: Net) -> Planned:
    plan = net.sites["plan"]
    assert isinstance(plan, Planned)
    return plan


def test_draws_and_gradient_use_the_bounded_chances() -> None:
    net = build("blockdrop", "cifar_resnet8", **SMALL).train()
    net.sampling = True
    torch.nn.init.constant_(plan_of(net).policy.head.bias, 30.0)  # surely kept, were it not for the bound
    chances = net(torch.randn(64, 3, 16, 16)).trace["plan"].probability.detach()
    torch.testing.assert_close(chances, torch.full_like(chances, 0.8))
    kept = net(torch.randn(256, 3, 16, 16)).trace["plan"].used.detach().mean()
    assert float(kept) == pytest.approx(0.8, abs=0.06)


def test_the_curriculum_opens_blocks_from_the_end() -> None:
    net = build("blockdrop", "cifar_resnet14", **SMALL).train()
    net.sampling = True
    curriculum, joint = BlockDrop().stages()
    assert curriculum.adjust is not None
    assert joint.adjust is not None
    opened = []
    for progress in (0.0, 0.2, 0.3, 0.5, 1.0):
        curriculum.adjust(net, progress)
        used = torch.cat([net(torch.randn(64, 3, 16, 16)).trace["plan"].used for _ in range(2)])
        opened.append([bool(rate < 1) for rate in used.mean(dim=0)])
    assert [sum(row) for row in opened] == [1, 3, 4, 6, 6]
    assert all(row == sorted(row) for row in opened)  # the last blocks are the first
    curriculum.adjust(net, 0.0)
    joint.adjust(net, 0.0)
    assert (plan_of(net).first_free, plan_of(net).bound) == (0, 0.2)


def test_the_stages_train_what_the_paper_says() -> None:
    curriculum, joint = BlockDrop().stages()
    policy, block = "model.plan.policy.head.weight", "model.plan.backbone.model.stem.conv.weight"
    assert (curriculum.trains(policy), curriculum.trains(block)) == (True, False)
    assert (joint.trains(policy), joint.trains(block)) == (True, True)
    assert curriculum.holds("model.plan.backbone.model.stem.bn")
    assert not curriculum.holds("model.plan.policy.stem.bn")
    assert not joint.holds("model.plan.backbone.model.stem.bn")


@pytest.mark.parametrize(("side", "blocks", "macs"), [(32, 15, 12.24e6), (224, 33, 0.236e9)])
@torch.no_grad()
def test_the_policy_costs_what_the_papers_does(side: int, blocks: int, macs: float) -> None:
    policy = Policy((3, side, side), blocks, width=1.0, start=0.5).eval()
    with MacCounter() as counter:
        chances = policy(torch.zeros(1, 3, side, side))
    assert chances.shape == (1, blocks)
    assert counter.total == pytest.approx(macs, rel=5e-3)


@pytest.mark.parametrize(
    ("backbone", "side", "blocks", "macs", "flops"),
    [
        ("resnet101", 224, 33, 7.80e9, 15.60e9),
        ("cifar_resnet110(shortcut='pad')", 32, 54, 252.9e6, 505.8e6),
        ("cifar_resnet32(shortcut='pad')", 32, 15, 68.86e6, 137.7e6),
    ],
)
def test_full_nets_in_both_conventions(backbone: str, side: int, blocks: int, macs: float, flops: float) -> None:
    net = build("blockdrop", backbone, classes=1000 if side == 224 else 10, image_size=side)
    assert net.costs is not None
    assert net.sites["plan"].units == blocks
    assert net.costs.without_overhead == pytest.approx(macs, rel=5e-3)
    assert 2 * net.costs.without_overhead == pytest.approx(flops, rel=5e-3)
    assert net.costs.full - net.costs.without_overhead == net.costs.overhead > 0


@pytest.mark.parametrize(
    ("backbone", "side", "kept", "flops", "within"),
    [("resnet101", 224, 24.77, 1.25e10, 1e-2), ("cifar_resnet110(shortcut='pad')", 32, 16.93, 1.81e8, 2e-2)],
)
def test_its_published_operating_points_count_every_multiply_add_twice(
    backbone: str, side: int, kept: float, flops: float, within: float
) -> None:
    net = build("blockdrop", backbone, classes=1000 if side == 224 else 10, image_size=side)
    assert net.costs is not None
    units = net.costs.sites["plan"].units  # published is only how many blocks were kept, not which
    macs = net.costs.always + net.costs.overhead + kept * sum(units) / len(units)
    assert 2 * macs == pytest.approx(flops, rel=within)


def test_a_backbone_without_shortcuts_is_refused() -> None:
    with pytest.raises(CannotAttach, match=r"^blockdrop: mobilenet_v1"):
        build("blockdrop", "mobilenet_v1(width=0.25)", **SMALL)
