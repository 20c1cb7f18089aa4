"""MobileNetV1: widths, strides for small images, initial weights."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from dyncomp.backbones.mobilenet_v1 import MobileNetV1
from dyncomp.core.backbone import Backbone
from dyncomp.errors import InvalidValue


def last_side(net: Backbone, image_size: int) -> int:
    """The side in pixels of the map that is averaged."""
    sides = []
    net.part(net.blocks[-1]).register_forward_hook(lambda m, i, o: sides.append(o.shape[-1]))
    net.eval()(torch.zeros(1, 3, image_size, image_size))
    return int(sides[0])


@pytest.mark.parametrize(
    ("image_size", "side"),
    [
        (1, 1),
        (2, 2),
        (8, 2),
        (16, 2),
        (17, 2),
        (28, 2),
        (32, 2),
        (33, 2),
        (64, 2),
        (96, 3),
        (224, 7),
    ],
)
def test_small_images_keep_at_least_2x2(image_size: int, side: int) -> None:
    assert last_side(MobileNetV1(width=0.25).build(10, 3, image_size), image_size) == side


@pytest.mark.parametrize(("halvings", "side"), [(0, 32), (1, 16), (3, 4), (5, 1)])
def test_halvings_can_be_chosen(halvings: int, side: int) -> None:
    net = MobileNetV1(width=0.25, halvings=halvings).build(10, 3, 32)
    assert last_side(net, 32) == side


@pytest.mark.parametrize("size", [33, 64, 128, 224])
def test_larger_images_have_the_strides_of_the_paper(size: int) -> None:
    net = MobileNetV1(width=0.25).build(10, 3, size)
    strides = [m.stride[0] for m in net.modules() if isinstance(m, nn.Conv2d) and m.groups > 1]
    stem = net.part("stem.conv")
    assert isinstance(stem, nn.Conv2d) and stem.stride == (2, 2)
    assert strides == [1, 2, 1, 2, 1, 2, 1, 1, 1, 1, 1, 2, 1]


@pytest.mark.parametrize("halvings", [-1, 6])
def test_other_halvings_are_refused(halvings: int) -> None:
    with pytest.raises(InvalidValue, match="halvings"):
        MobileNetV1(halvings=halvings)


@pytest.mark.parametrize(
    ("width", "first", "last"),
    [(0.1, 8, 104), (0.25, 8, 256), (0.35, 8, 360), (0.75, 24, 768), (1.4, 48, 1432)],
)
def test_channels_are_multiples_of_8(width: float, first: int, last: int) -> None:
    net = MobileNetV1(width=width).build(10, 3, 32)
    channels = [m.num_features for m in net.modules() if isinstance(m, nn.BatchNorm2d)]
    assert (channels[0], channels[-1]) == (first, last)
    assert all(c % 8 == 0 for c in channels)


def test_depthwise_kernels_start_at_the_scale_of_their_own_fan() -> None:
    torch.manual_seed(0)
    layer = MobileNetV1().build(10, 3, 224).part("blocks.12.depthwise")
    assert isinstance(layer, nn.Conv2d)
    assert float(layer.weight.detach().std()) == pytest.approx((2 / 9) ** 0.5, rel=0.02)
