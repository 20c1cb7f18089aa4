"""MnasNet-A1 against the published counts and timm's network of the same figure."""

from __future__ import annotations

import pytest
import timm
import torch
from torch import nn

from dyncomp import build
from dyncomp.backbones.mnasnet import MnasNetA1, SqueezeExcitation
from dyncomp.core.backbone import Backbone, ResidualBlock
from dyncomp.core.outline import outlined

BLOCKS = 16


def peer(classes: int = 1000) -> nn.Module:
    net: nn.Module = timm.create_model("semnasnet_100", num_classes=classes)
    return net


def last_side(net: Backbone, size: int) -> int:
    """The side in pixels of the map that is averaged."""
    sides: list[int] = []
    net.part("head").register_forward_hook(lambda m, i, o: sides.append(o.shape[-1]))
    net.eval()(torch.zeros(1, 3, size, size))
    return sides[0]


@torch.no_grad()
def test_it_is_timms_network() -> None:
    torch.manual_seed(0)
    net, original = MnasNetA1(dropout=0.0).build(10, 3, 96).double(), peer(10).double()
    for layer in original.modules():
        if isinstance(layer, nn.BatchNorm2d):
            nn.init.uniform_(layer.weight, 0.5, 1.5)
            nn.init.normal_(layer.bias, std=0.1)
            layer.momentum = None  # the mean of all batches so far, without the initial 0 and 1
    images = torch.randn(4, 3, 96, 96, dtype=torch.float64)
    original.train()(images)
    net.load_state_dict(dict(zip(net.state_dict(), original.state_dict().values(), strict=True)))
    expected = original.eval()(images)
    assert not torch.allclose(expected[0], expected[1], rtol=0.01)
    torch.testing.assert_close(net.eval()(images), expected, rtol=0, atol=1e-11)
    torch.testing.assert_close(net.train()(images), original.train()(images), rtol=0, atol=1e-11)


def test_parameters_are_timms() -> None:
    with outlined():
        net, original = MnasNetA1().build(1000, 3, 224), peer()
    assert [p.shape for p in net.parameters()] == [p.shape for p in original.parameters()]
    assert sum(p.numel() for p in net.parameters()) / 1e6 == pytest.approx(3.89, abs=0.005)  # 3.9 M in the paper


@pytest.mark.parametrize(
    ("method", "millions"),
    [
        ("static", 312.0),  # the paper's table 1, and CondConv's (Yang et al. 2019)
        ("condconv(experts=8)", 325.0),  # CondConv's table 1
        ("condconv(experts=8, begin=11, classifier=False)", 325.0),  # the layers that give it
    ],
)
def test_multiply_adds_are_the_published_ones(method: str, millions: float) -> None:
    with outlined():
        costs = build(method, "mnasnet_a1", classes=1000, image_size=224).costs
    assert costs is not None
    assert costs.full / 1e6 == pytest.approx(millions, rel=0.005)


def test_blocks_with_a_shortcut_are_residual_and_eight_have_attention() -> None:
    with outlined():
        net = MnasNetA1().build(10, 3, 224)
    blocks = [net.part(name) for name in net.blocks]
    residual = [number for number, block in enumerate(blocks, start=1) if isinstance(block, ResidualBlock)]
    attentive = [
        number
        for number, block in enumerate(blocks, start=1)
        if any(isinstance(layer, SqueezeExcitation) for layer in block.modules())
    ]
    assert len(blocks) == BLOCKS
    assert residual == [3, 5, 6, 8, 9, 10, 12, 14, 15]
    assert attentive == [4, 5, 6, 11, 12, 13, 14, 15]


@torch.no_grad()
def test_attention_scales_each_channel_by_what_the_whole_map_says() -> None:
    torch.manual_seed(0)
    layer = SqueezeExcitation(8, 2).double()
    x = torch.randn(3, 8, 5, 5, dtype=torch.float64)
    reduce, expand = (part for part in layer.modules() if isinstance(part, nn.Conv2d))
    hidden = (x.mean((2, 3)) @ reduce.weight[:, :, 0, 0].T + reduce.bias).relu()
    scale = (hidden @ expand.weight[:, :, 0, 0].T + expand.bias).sigmoid()
    torch.testing.assert_close(layer(x), x * scale[:, :, None, None], rtol=0, atol=1e-12)


@pytest.mark.parametrize(("size", "side"), [(8, 2), (16, 2), (28, 2), (32, 2), (33, 2), (96, 3), (224, 7)])
def test_small_images_keep_at_least_2x2(size: int, side: int) -> None:
    assert last_side(MnasNetA1(width=0.25).build(10, 3, size), size) == side


@pytest.mark.parametrize(("halvings", "side"), [(0, 32), (2, 8), (5, 1)])
def test_halvings_can_be_chosen(halvings: int, side: int) -> None:
    assert last_side(MnasNetA1(width=0.25, halvings=halvings).build(10, 3, 32), 32) == side


@pytest.mark.parametrize("width", [0.1, 0.5, 1.4])
def test_channels_are_multiples_of_8(width: float) -> None:
    net = MnasNetA1(width=width).build(10, 3, 32)
    assert all(m.num_features % 8 == 0 for m in net.modules() if isinstance(m, nn.BatchNorm2d))
    assert sum(isinstance(net.part(name), ResidualBlock) for name in net.blocks) == 9
