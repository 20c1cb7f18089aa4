"""VGG-11: torchvision's network, its poolings on small images, filter groups, two heads."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn
from torchvision.models import get_model

from dyncomp.backbones.vgg import VGG11
from dyncomp.core.backbone import Backbone
from dyncomp.core.outline import outlined
from dyncomp.errors import InvalidValue

FILTERS = [64, 128, 256, 256, 512, 512, 512, 512]
SIDES = [224, 112, 56, 56, 28, 28, 14, 14]  # of the maps that the convolutions of a large image write


def convolutions(net: Backbone) -> list[nn.Conv2d]:
    return [layer for layer in net.modules() if isinstance(layer, nn.Conv2d)]


def multiply_adds(groups: tuple[int, ...]) -> int:
    inputs = [3, *FILTERS]
    return sum(9 * i // g * o * side * side for i, o, g, side in zip(inputs, FILTERS, groups, SIDES, strict=False))


def counted(net: Backbone, size: int) -> int:
    """Every output value of a convolution or linear layer costs one pass over its own weights."""
    macs = []
    for layer in net.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            layer.register_forward_hook(lambda m, i, o: macs.append(o.numel() * m.weight[0].numel()))
    net.eval()(torch.zeros(1, 3, size, size))
    return sum(macs)


def test_filters_are_multiples_of_what_is_asked_for_and_of_the_groups_that_read_them() -> None:
    plain, grouped = (VGG11(width=0.04, multiple=1, groups=groups).build(7, 3, 16) for groups in ("none", "implicit"))
    assert [layer.out_channels for layer in convolutions(plain)] == [3, 5, 10, 10, 20, 20, 20, 20]
    assert [layer.out_channels for layer in convolutions(grouped)] == [3, 6, 12, 12, 24, 24, 24, 24]


@pytest.mark.parametrize(
    ("norm", "name"), [pytest.param("none", "vgg11", marks=pytest.mark.slow), ("batch", "vgg11_bn")]
)
@torch.no_grad()
def test_weights_make_torchvisions_network(norm: str, name: str, tmp_path: Path) -> None:
    original = get_model(name, weights=None, num_classes=10, init_weights=False)
    torch.save(original.state_dict(), tmp_path / "vgg.pth")
    net = VGG11(head="imagenet", norm=norm, weights=str(tmp_path / "vgg.pth")).build(10, 3, 64)  # type: ignore[arg-type]
    images = torch.randn(2, 3, 64, 64)
    expected = original.eval()(images)
    assert not torch.equal(expected[0], expected[1])
    assert torch.equal(net.eval()(images), expected)


@torch.no_grad()
def test_other_classes_or_channels_leave_only_the_ends_fresh(tmp_path: Path) -> None:
    original = get_model("vgg11", weights=None, num_classes=10, init_weights=False)
    torch.save(original.state_dict(), tmp_path / "vgg.pth")
    with pytest.warns(UserWarning, match=r"features\.0\.weight, classifier\.6\.weight, classifier\.6\.bias in"):
        net = VGG11(head="imagenet", weights=str(tmp_path / "vgg.pth")).build(7, 1, 64)
    state = net.state_dict()
    assert torch.equal(state["model.classifier.3.weight"], original.classifier[3].weight)
    assert float(state["model.classifier.6.weight"].std()) == pytest.approx(0.01, rel=0.05)
    assert net.eval()(torch.randn(2, 1, 64, 64)).shape == (2, 7)


@pytest.mark.parametrize(
    ("options", "linear"),
    [
        ({"head": "imagenet"}, 25088 * 4096 + 4096 * 4096 + 4096 * 1000),
        ({}, 512 * 1000),
        ({"norm": "batch"}, 512 * 1000),
    ],
)
def test_multiply_adds_follow_the_formula(options: dict[str, str], linear: int) -> None:
    with outlined():
        net = VGG11(**options).build(1000, 3, 224)  # type: ignore[arg-type]
        assert counted(net, 224) == multiply_adds((1,) * 8) + linear


def test_the_imagenet_network_has_the_published_counts() -> None:
    with outlined():
        net = VGG11(head="imagenet").build(1000, 3, 224)
        assert counted(net, 224) / 1e9 == pytest.approx(7.609, abs=0.0005)  # torchvision's table of weights
    assert sum(p.numel() for p in net.parameters()) == 132_863_336


def test_implicit_routing_doubles_the_groups_from_stage_to_stage() -> None:
    groups = (1, 1, 2, 2, 4, 4, 8, 8)
    with outlined():
        net = VGG11(groups="implicit").build(1000, 3, 224)
        assert counted(net, 224) == multiply_adds(groups) + 512 * 1000
    assert tuple(layer.groups for layer in convolutions(net)) == groups


@pytest.mark.parametrize(
    ("size", "poolings", "side"),
    [(1, 0, 1), (3, 0, 3), (4, 1, 2), (8, 2, 2), (16, 3, 2), (28, 3, 3), (32, 4, 2), (63, 4, 3), (64, 5, 2)],
)
def test_small_images_keep_at_least_2x2(size: int, poolings: int, side: int) -> None:
    net = VGG11(width=0.125).build(10, 3, size).eval()
    sides: list[int] = []
    net.part(net.blocks[-1]).register_forward_hook(lambda m, i, o: sides.append(o.shape[-1]))
    net(torch.zeros(1, 3, size, size))
    assert sides == [side]
    pooled = [index for index, name in enumerate(net.blocks) if hasattr(net.part(name), "pool")]
    assert pooled == [0, 1, 3, 5, 7][5 - poolings :]


@pytest.mark.parametrize("poolings", [0, 3, 5])
def test_poolings_can_be_chosen(poolings: int) -> None:
    net = VGG11(width=0.125, poolings=poolings).build(10, 3, 32)
    assert sum(isinstance(layer, nn.MaxPool2d) for layer in net.modules()) == poolings


def test_more_poolings_than_the_image_allows_are_refused() -> None:
    with pytest.raises(InvalidValue, match=r"^vgg11: poolings=5 leave nothing of 28 pixels; give at most 4$"):
        VGG11(poolings=5).build(10, 3, 28)
    assert VGG11(width=0.125, poolings=4).build(10, 3, 28).eval()(torch.zeros(1, 3, 28, 28)).shape == (1, 10)


@pytest.mark.parametrize("options", [{"head": "pool"}, {"groups": "implicit"}, {"width": 0.5}])
def test_torchvisions_weights_fit_only_torchvisions_network(options: dict[str, object]) -> None:
    with pytest.raises(InvalidValue, match=r"^vgg11: weights are those of torchvision's network"):
        VGG11(**({"head": "imagenet", "weights": "vgg.pth"} | options))  # type: ignore[arg-type]


def test_each_convolution_is_a_block_of_plain_layers() -> None:
    net = VGG11(width=0.5, norm="batch").build(10, 1, 32)
    assert len(net.blocks) == 8
    for name, filters in zip(net.blocks, FILTERS, strict=True):
        part = net.part(name)
        assert isinstance(part, nn.Sequential)
        assert [name for name, _ in part.named_children()][:3] == ["conv", "bn", "relu"]
        assert isinstance(part[0], nn.Conv2d) and part[0].out_channels == filters // 2
