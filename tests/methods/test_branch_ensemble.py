"""Branches on a shared trunk: what they cost, what they share, what they learn by."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from dyncomp import build, create_method
from dyncomp.core import chain, measure_costs
from dyncomp.core.net import Net
from dyncomp.errors import CannotAttach, InvalidValue
from dyncomp.ops import Voter
from dyncomp.registry import BACKBONES

SMALL = {"classes": 5, "image_size": 16}
IMAGES = torch.randn(6, 3, 16, 16, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
LABELS = torch.arange(6) % 5


def macs(module: torch.nn.Module) -> int:
    return measure_costs(Net(module).eval(), torch.zeros(1, 3, 16, 16)).full


@pytest.mark.parametrize("backbone", ["cifar_resnet14", "mobilenet_v1(width=0.25)", "vgg11(width=0.125)"])
@pytest.mark.parametrize("members", [2, 3])
@pytest.mark.parametrize(("split", "share"), [(1, None), (3, None), (0.5, 0.5), (0.01, 0.01)])
def test_costs_the_trunk_and_every_branch(backbone: str, members: int, split: float, share: float | None) -> None:
    plain = BACKBONES.create(backbone).build(5, 3, 16)
    blocks = split if share is None else max(1, int(share * len(plain.blocks)))
    layers = plain.layers()
    end = [name for name, _ in layers].index(plain.blocks[int(blocks) - 1]) + 1
    trunk, whole = macs(chain(layers[:end])), macs(plain)
    net = build(f"branch_ensemble(members={members}, split={split})", backbone, **SMALL)
    assert net.costs is not None
    assert net.costs.full == trunk + members * (whole - trunk)
    assert 0 < trunk < whole


def test_a_resnet14s_default_by_hand() -> None:
    """Stem and first block of six are shared; 32x32 images in three channels, 10 classes."""
    stem, first = 32 * 32 * 9 * 3 * 16, 2 * 32 * 32 * 9 * 16 * 16
    same = 2 * 32 * 32 * 9 * 16 * 16  # every stride-1 block costs the same
    wider = 32 * 32 * 9 * 16 * 16 * 3 // 2 + 32 * 32 * 16 * 16 // 2  # halved size, twice the filters, projection
    rest = same + 2 * (wider + same) + 64 * 10
    net = build("branch_ensemble", "cifar_resnet14")
    assert net.costs is not None
    assert net.costs.full == stem + first + 3 * rest


@torch.no_grad()
def test_the_answer_is_the_branches_mean_on_one_trunk() -> None:
    net = build("branch_ensemble", "cifar_resnet8", **SMALL).double()
    features = net.model.trunk(IMAGES)
    branches = [module.member for module in net.modules() if isinstance(module, Voter)]
    mean = sum(branch(features).softmax(1) for branch in branches) / 3
    torch.testing.assert_close(net(IMAGES).logits.softmax(1), mean, rtol=0, atol=1e-12)
    assert len({float(next(branch.parameters()).sum()) for branch in branches}) == 3  # fresh weights each


@pytest.mark.parametrize("learns_by", ["independent", "ensemble"])
def test_branches_learn_by_their_own_loss_or_by_the_means(learns_by: str) -> None:
    method = create_method(f"branch_ensemble(learns_by={learns_by!r})")
    net = build(method, "cifar_resnet8", **SMALL).double().train()
    (stage,) = method.stages()
    loss = stage.loss(net(IMAGES), LABELS, 0.0)
    features = net.model.trunk(IMAGES)
    logits = [module.member(features) for module in net.modules() if isinstance(module, Voter)]
    expected = {
        "independent": sum(F.cross_entropy(own, LABELS) for own in logits),
        "ensemble": F.nll_loss((sum(own.softmax(1) for own in logits) / 3).log(), LABELS),
    }
    torch.testing.assert_close(loss.double(), expected[learns_by], rtol=1e-5, atol=0)


@pytest.mark.parametrize("split", [0, 1.5, -1])
def test_a_split_that_is_neither_share_nor_number_is_refused(split: float) -> None:
    with pytest.raises(InvalidValue, match=f"split={split}") as caught:
        create_method(f"branch_ensemble(split={split})")
    assert "\n" not in str(caught.value)


def test_a_trunk_longer_than_the_backbone_is_refused() -> None:
    with pytest.raises(CannotAttach, match=r"^branch_ensemble: split=4, but cifar_resnet8\S* has 3 blocks"):
        build("branch_ensemble(split=4)", "cifar_resnet8", **SMALL)
