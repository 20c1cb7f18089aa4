"""ladder: rungs of every family, near the cost that is asked for, or one line that says why not."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Literal

import pytest
import torch

from dyncomp import build, create_method
from dyncomp.backbones.cifar_resnet import CifarResNet
from dyncomp.core.backbone import Backbone, BackboneFamily, ResidualBlock
from dyncomp.errors import CannotAttach, InvalidValue
from dyncomp.methods.ladder import Ladder, cost_of, nearest
from dyncomp.registry import BACKBONES

By = Literal["width", "depth"]
BY_WIDTH = {
    "cifar_resnet14": 16,
    "mobilenet_v1(width=0.5)": 32,
    "mobilenet_v2(width=0.5)": 32,
    "mnasnet_a1(width=0.5)": 32,
    "vgg11(width=0.25)": 16,
    "vgg11(width=0.125, groups='implicit')": 16,
    "resnet18": 32,
    "msdnet(blocks=4, base=2, step=1, channels=8, head=16)": 16,
    "efficientnet_b0": 32,
}
BY_DEPTH = {
    "cifar_resnet14": 16,
    "msdnet(blocks=4, base=2, step=1, channels=8, head=16)": 16,
    "resnet34": 32,
    "efficientnet_b0": 32,
}
CASES: list[tuple[str, int, By]] = [
    *((name, size, "width") for name, size in BY_WIDTH.items()),
    *((name, size, "depth") for name, size in BY_DEPTH.items()),
]


def shape(size: int) -> dict[str, int]:
    return {"classes": 6, "in_channels": 3, "image_size": size}


def sampled(family: BackboneFamily, by: By, most: int = 6) -> Sequence[BackboneFamily]:
    """About `most` of a family's rungs, evenly spaced: to count the multiply-adds of hundreds takes a minute."""
    rungs = family.scaled(by)
    return rungs[:: max(1, len(rungs) // most)]


def macs(method: str | Ladder, backbone: str, size: int) -> int:
    costs = build(method, backbone, **shape(size)).costs
    assert costs is not None
    assert costs.overhead == 0
    return costs.full


@pytest.mark.parametrize(("backbone", "size"), BY_WIDTH.items())
@pytest.mark.parametrize(
    "share", [0.25, 1.5, *(pytest.param(share, marks=pytest.mark.slow) for share in (0.4, 0.55, 0.75))]
)
def test_a_rung_by_width_costs_what_is_asked_for_within_a_fifth(backbone: str, size: int, share: float) -> None:
    found = macs(Ladder(macs=share), backbone, size) / macs("static", backbone, size)
    assert found == pytest.approx(share, rel=0.2)
    assert found != 1


@pytest.mark.parametrize(
    ("backbone", "size", "share"), [("cifar_resnet14", 16, 0.55), ("cifar_resnet14", 16, 1.5), ("resnet34", 32, 0.5)]
)
def test_a_rung_by_depth_does_too(backbone: str, size: int, share: float) -> None:
    found = macs(Ladder(macs=share, by="depth"), backbone, size) / macs("static", backbone, size)
    assert found == pytest.approx(share, rel=0.2)


@pytest.mark.parametrize(("backbone", "size", "by"), CASES)
def test_rungs_rise_in_cost_and_are_of_the_family(backbone: str, size: int, by: By) -> None:
    family = BACKBONES.create(backbone)
    rungs = family.scaled(by)
    assert all(type(rung) is type(family) for rung in rungs)
    costs = [cost_of(rung, 6, (3, size, size)) for rung in sampled(family, by)]
    assert len(costs) > 3
    assert all(a <= b for a, b in pairwise(costs))
    assert costs[0] < cost_of(family, 6, (3, size, size)) < costs[-1]


@pytest.mark.parametrize("most", [6, pytest.param(10_000, marks=pytest.mark.slow)], ids=["some", "all"])
@pytest.mark.parametrize(("backbone", "size", "by"), CASES)
def test_the_rung_is_the_nearest(backbone: str, size: int, by: By, most: int) -> None:
    rungs = sampled(BACKBONES.create(backbone), by, most)
    costs = {rung: cost_of(rung, 6, (3, size, size)) for rung in rungs}
    for wanted in (
        0,
        min(costs.values()),
        0.3 * max(costs.values()),
        0.7 * max(costs.values()),
        2 * max(costs.values()),
    ):
        found = nearest(rungs, wanted, costs.__getitem__)
        assert abs(costs[found] - wanted) == min(abs(cost - wanted) for cost in costs.values())


def test_costs_are_counted_without_computing_and_drawing() -> None:
    torch.manual_seed(3)
    before = torch.get_rng_state()
    family = BACKBONES.create("cifar_resnet14")
    assert cost_of(family, 6, (3, 16, 16)) == macs("static", "cifar_resnet14", 16)
    assert torch.equal(torch.get_rng_state(), before)


def blocks(backbone: str, share: float, by: By) -> tuple[int, int]:
    """Residual blocks, and the channels of the last one, of a rung."""
    net = build(Ladder(macs=share, by=by), backbone, **shape(16))
    found = [module for module in net.modules() if isinstance(module, ResidualBlock)]
    return len(found), next(m for m in found[-1].modules() if isinstance(m, torch.nn.Conv2d)).out_channels


def test_width_changes_channels_and_depth_blocks() -> None:
    assert blocks("cifar_resnet20", 0.25, "width") == (9, 32)
    assert blocks("cifar_resnet20", 0.65, "depth") == (6, 64)


@pytest.mark.parametrize(
    ("spec", "backbone", "said"),
    [
        ('ladder(by="depth")', "vgg11(width=0.25)", "^ladder: vgg11 cannot be scaled by depth; give by='width' or a"),
        ('ladder(by="depth")', "mobilenet_v1(width=0.25)", "cannot be scaled by depth; give by='width' or a backbone"),
        ("ladder(macs=9.0)", "mobilenet_v1(width=0.25)", r"has \d\.\d+; give another share$"),
        ("ladder(macs=9.0)", "cifar_resnet8", r"the nearest to 9 of its multiply-adds, .*, has 3\.\d+; give another"),
        ("ladder(macs=0.0001)", "cifar_resnet8", r"the nearest to 0.0001 .* give another share, or by='depth'"),
        ('ladder(macs=0.1, by="depth")', "cifar_resnet14", r"cifar_resnet8\S*, has 0\.\d+; .* or by='width'"),
        ("ladder(macs=1.0)", "cifar_resnet8", r"has 1\.00; give another share"),
    ],
)
def test_what_has_no_rung_is_said_in_one_line(spec: str, backbone: str, said: str) -> None:
    with pytest.raises(CannotAttach, match=said) as caught:
        build(spec, backbone, **shape(16))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("by", ["width", "depth"])
def test_a_family_without_any_scale_is_advised_none(by: By) -> None:
    class Rigid(BackboneFamily):
        def build(self, classes: int, in_channels: int, image_size: int) -> Backbone:
            return CifarResNet(depth=8).build(classes, in_channels, image_size)

    said = f"^ladder: cifar_resnet8 cannot be scaled by {by}, nor by anything else; give a backbone whose family can be"
    with pytest.raises(CannotAttach, match=said):
        Ladder(by=by).build(lambda: Rigid().make(6, 3, 16))


@pytest.mark.parametrize("backbone", ["resnet18", "mobilenet_v2", "efficientnet_b0", "vgg11"])
def test_rungs_begin_without_the_weights_of_another_network(backbone: str) -> None:
    head = "head='imagenet', " if backbone == "vgg11" else ""
    family = BACKBONES.create(f"{backbone}({head}weights='some.pth')")
    rungs = [*family.scaled("width"), *family.scaled("depth")]
    assert rungs and all(rung.weights is None for rung in rungs)


@pytest.mark.parametrize("spec", ["ladder(macs=0.0)", "ladder(macs=-1.0)", 'ladder(by="height")'])
def test_wrong_values_are_said_in_one_line(spec: str) -> None:
    with pytest.raises(InvalidValue) as caught:
        create_method(spec)
    assert "\n" not in str(caught.value)


def test_it_is_a_control_of_the_plain_backbone_and_begins_with_nothing() -> None:
    method = create_method("ladder")
    assert method.control_of == "static"
    assert dict(method.sources()) == {}
    assert not build(method, "cifar_resnet14", **shape(16)).sites
