"""Adapted networks are torchvision's own networks, bit for bit."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torchvision.models import get_model

from dyncomp.core.backbone import Backbone, ResidualBlock
from dyncomp.core.outline import outlined
from dyncomp.registry import BACKBONES

NAMES = ("resnet18", "resnet50", "mobilenet_v2", "efficientnet_b0")


def pair(name: str, classes: int = 10, size: int = 64) -> tuple[Backbone, nn.Module]:
    """An adapted network and torchvision's, of one seed, normalised by what layers really give."""
    torch.manual_seed(0)
    adapted: Backbone = BACKBONES.create(name).build(classes, 3, size)
    torch.manual_seed(0)
    original: nn.Module = get_model(name, weights=None, num_classes=classes)
    for net in (adapted, original):
        torch.manual_seed(1)
        for layer in net.modules():
            if isinstance(layer, nn.BatchNorm2d):
                nn.init.uniform_(layer.weight, 0.5, 1.5)
                nn.init.normal_(layer.bias, std=0.1)
                layer.momentum = None  # the mean of all batches so far, without the initial 0 and 1
        net(torch.randn(4, 3, 64, 64))
    return adapted, original


def logits(net: nn.Module, images: Tensor) -> Tensor:
    torch.manual_seed(2)  # dropout and stochastic depth
    result: Tensor = net(images)
    return result


@pytest.mark.parametrize("size", [224, 33])
@pytest.mark.parametrize("name", NAMES)
@torch.no_grad()
def test_adapted_equals_original_in_evaluation_and_training(name: str, size: int) -> None:
    adapted, original = pair(name, size=size)
    images = torch.randn(2, 3, size, size)
    for mode in (False, True):
        adapted.train(mode)
        original.train(mode)
        expected = logits(original, images)
        assert not torch.allclose(expected[0], expected[1], rtol=0.01)
        assert torch.equal(logits(adapted, images), expected)


@torch.no_grad()
def test_adapted_equals_original_in_float64() -> None:
    adapted, original = (net.double().eval() for net in pair("resnet18"))
    images = torch.randn(2, 3, 64, 64, dtype=torch.float64)
    assert torch.equal(adapted(images), original(images))


@pytest.mark.parametrize("name", NAMES)
def test_gradients_and_running_statistics_are_equal(name: str) -> None:
    adapted, original = pair(name)
    images = torch.randn(4, 3, 64, 64)
    for net in (adapted, original):
        torch.autograd.backward(logits(net.train(), images).square().sum())
    # a block keeps the order of its layers, and so does the list of parameters of each kind
    assert gradients(adapted) == gradients(original)
    assert statistics(adapted) == statistics(original)


def gradients(net: nn.Module) -> set[tuple[float, ...]]:
    """A fingerprint of every gradient, free of names and of the layers' order."""
    return {fingerprint(p.grad) for p in net.parameters() if p.grad is not None}


def statistics(net: nn.Module) -> set[tuple[float, ...]]:
    return {fingerprint(b) for b in net.buffers()}


def fingerprint(x: Tensor) -> tuple[float, ...]:
    flat = x.double().flatten()
    return (flat.numel(), float(flat.sum()), float(flat.square().sum()), float(flat[0]))


@pytest.mark.parametrize(
    ("name", "blocks", "residual"),
    [
        ("resnet18", 8, 8),
        ("resnet34", 16, 16),
        ("resnet50", 16, 16),
        ("resnet101", 33, 33),
        ("resnet152", 50, 50),
        ("mobilenet_v2", 17, 10),
        ("efficientnet_b0", 16, 9),
    ],
)
def test_blocks_with_a_shortcut_are_residual(name: str, blocks: int, residual: int) -> None:
    with outlined():
        net = BACKBONES.create(name).build(10, 3, 224)
    assert len(net.blocks) == blocks
    assert sum(isinstance(net.part(block), ResidualBlock) for block in net.blocks) == residual


@pytest.mark.parametrize("name", NAMES)
@torch.no_grad()
def test_the_cifar_stem_does_not_shrink_the_image(name: str) -> None:
    net = BACKBONES.create(f"{name}(stem='cifar')").build(10, 1, 32).eval()
    sides = []
    net.part(net.blocks[0]).register_forward_hook(lambda m, i, o: sides.append(i[0].shape[-1]))
    net(torch.randn(1, 1, 32, 32))
    assert sides == [32]


def test_channels_of_mobilenet_v2_follow_its_width() -> None:
    ours = BACKBONES.create("mobilenet_v2(width=0.5)").build(7, 3, 32)
    theirs = get_model("mobilenet_v2", num_classes=7, width_mult=0.5)
    assert [p.shape for p in ours.parameters()] == [p.shape for p in theirs.parameters()]


@pytest.mark.parametrize(
    ("spec", "name", "parameters"),
    [
        ("resnet34(blocks=(2, 2, 2, 2))", "resnet18", 11.69),
        ("resnet101(blocks=(3, 4, 6, 3))", "resnet50", 25.56),
        ("efficientnet_b0(depth=1.1)", "efficientnet_b1", 7.79),
        ("efficientnet_b0(width=1.1, depth=1.2)", "efficientnet_b2", 9.11),
        ("efficientnet_b0(width=1.8, depth=2.6)", "efficientnet_b6", 43.04),
        ("mobilenet_v2(width=0.35, multiple=4)", "mobilenet_v2", None),
    ],
)
def test_other_blocks_and_coefficients_make_torchvisions_other_networks(
    spec: str, name: str, parameters: float | None
) -> None:
    with outlined():
        ours = BACKBONES.create(spec).build(1000, 3, 224)
        theirs = get_model(name, **({} if parameters else {"width_mult": 0.35, "round_nearest": 4}))
    # a block's projection stands behind its body in both
    assert [p.shape for p in ours.parameters()] == [p.shape for p in theirs.parameters()]
    if parameters:
        assert sum(p.numel() for p in ours.parameters()) / 1e6 == pytest.approx(parameters, abs=0.006)


@pytest.mark.parametrize(("name", "bottlenecks"), [("resnet18", 1), ("resnet50", 4)])
def test_all_channels_of_a_resnet_follow_its_width(name: str, bottlenecks: int) -> None:
    with outlined():
        half, whole = (BACKBONES.create(f"{name}(width={width})").build(7, 3, 32) for width in (0.5, 1.0))
    layers = [[m for m in net.modules() if isinstance(m, nn.Conv2d)] for net in (half, whole)]
    for narrow, wide in zip(*layers, strict=True):
        assert 2 * narrow.out_channels == wide.out_channels
        assert narrow.in_channels in (3, wide.in_channels // 2)
    assert half.part("fc").in_features == 256 * bottlenecks
    assert half.state_dict().keys() == whole.state_dict().keys()


@pytest.mark.parametrize(("width", "filters"), [(1.1, [72, 144, 280, 560]), (0.1, [8, 16, 24, 48])])
def test_channels_of_a_resnet_are_multiples_of_eight(width: float, filters: list[int]) -> None:
    with outlined():
        net = BACKBONES.create(f"resnet18(width={width})").build(7, 3, 32)
    last = [net.part(f"layer{stage}.1.body.conv2") for stage in (1, 2, 3, 4)]
    assert [layer.out_channels for layer in last] == filters


def test_a_resnets_rungs_by_depth_have_one_block_more_each() -> None:
    rungs = [rung.blocks for rung in BACKBONES.create("resnet50").scaled("depth")]
    assert rungs[:3] == [(1, 1, 1, 1), (1, 1, 2, 1), (1, 2, 2, 1)]
    assert (3, 4, 6, 3) in rungs and rungs[-1] == (6, 8, 12, 6)
    assert [sum(rung) for rung in rungs] == list(range(4, 33))


@pytest.mark.parametrize(
    ("name", "first", "last", "classifier", "pool"),
    [
        ("resnet18", "layer1.0", "layer4.1", "fc", "avgpool"),
        ("mobilenet_v2", "features.1", "features.17", "classifier.1", "avgpool"),
        ("efficientnet_b0", "features.1.0", "features.7.0", "classifier.1", "avgpool"),
    ],
)
def test_parts_keep_torchvisions_names(name: str, first: str, last: str, classifier: str, pool: str) -> None:
    net = BACKBONES.create(name).build(10, 3, 32)
    assert (net.blocks[0], net.blocks[-1], net.classifier) == (first, last, classifier)
    original = get_model(name, weights=None, num_classes=10).state_dict()
    blocks = tuple(f"model.{block}." for block in net.blocks)
    outside = [key.removeprefix("model.") for key in net.state_dict() if not key.startswith(blocks)]
    assert outside == [key for key in original if not f"model.{key}".startswith(blocks)]
    assert pool in [layer for layer, _ in net.layers()]
