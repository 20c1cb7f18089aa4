"""The small residual networks: depth, width and shortcuts."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from dyncomp.backbones.cifar_resnet import CifarResNet
from dyncomp.core.backbone import ResidualBlock
from dyncomp.errors import InvalidValue
from dyncomp.ops.shrink import Shrink


@pytest.mark.parametrize(("depth", "below", "above"), [(9, 8, 14), (15, 14, 20), (36, 32, 38)])
def test_a_depth_that_is_not_6n_plus_2_names_the_nearest(depth: int, below: int, above: int) -> None:
    with pytest.raises(InvalidValue) as error:
        CifarResNet(depth=depth)
    assert str(error.value) == (
        f"cifar_resnet{depth}: the depth must be 6n+2; give cifar_resnet{below} or cifar_resnet{above}"
    )


@pytest.mark.parametrize("depth", [2, 7, -4])
def test_a_depth_below_8_is_refused(depth: int) -> None:
    with pytest.raises(InvalidValue, match="at least 8"):
        CifarResNet(depth=depth)


@pytest.mark.parametrize("depth", [8, 14, 20])
def test_depth_counts_the_layers_between_image_and_logits(depth: int) -> None:
    net = CifarResNet(depth=depth, shortcut="pad").build(10, 3, 32)
    layers = [m for m in net.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    assert len(layers) == depth
    assert len(net.blocks) == (depth - 2) // 2


@pytest.mark.parametrize(("width", "channels"), [(0.01, [1, 2, 4]), (0.5, [8, 16, 32]), (2, [32, 64, 128])])
def test_width_scales_the_stages(width: float, channels: list[int]) -> None:
    net = CifarResNet(depth=8, width=width).build(10, 1, 8)
    convolutions = [net.part(f"stages.{stage}.0.body.conv2") for stage in range(3)]
    assert [c.out_channels for c in convolutions if isinstance(c, nn.Conv2d)] == channels


def test_the_padded_shortcut_takes_pixels_and_appends_zeros() -> None:
    x = torch.arange(2 * 3 * 5 * 5, dtype=torch.float32).reshape(2, 3, 5, 5)
    y = Shrink(stride=2, extra=4)(x)
    assert y.shape == (2, 7, 3, 3)
    for image in range(2):
        for channel in range(3):
            for row in range(3):
                for column in range(3):
                    assert y[image, channel, row, column] == x[image, channel, 2 * row, 2 * column]
    assert y[:, 3:].abs().sum() == 0


@pytest.mark.parametrize(("shortcut", "projection"), [("conv", nn.Sequential), ("pad", Shrink)])
def test_only_blocks_that_change_the_shape_have_a_projection(shortcut: str, projection: type[nn.Module]) -> None:
    net = CifarResNet(depth=14, shortcut=shortcut).build(10, 3, 32)  # type: ignore[arg-type]
    kinds = []
    for name in net.blocks:
        block = net.part(name)
        assert isinstance(block, ResidualBlock)
        kinds.append(type(block.shortcut))
    assert kinds == [nn.Identity, nn.Identity, projection, nn.Identity, projection, nn.Identity]


def test_initial_weights_keep_the_variance_of_gradients() -> None:
    torch.manual_seed(0)
    net = CifarResNet(depth=8, width=4).build(10, 3, 32)
    layer = net.part("stages.2.0.body.conv2")
    assert isinstance(layer, nn.Conv2d)
    assert float(layer.weight.detach().std()) == pytest.approx((2 / (9 * 256)) ** 0.5, rel=0.02)
    norm = net.part("stages.2.0.body.bn2")
    assert isinstance(norm, nn.BatchNorm2d)
    assert bool((norm.weight == 1).all() and (norm.bias == 0).all())
