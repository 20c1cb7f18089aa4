"""Generated shapes: they look as described, can be learnt, and are as hard as they say."""

from __future__ import annotations

import math
import time
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from dyncomp.data import Splits, load
from dyncomp.data.outlines import OUTLINES, box, segment, star
from dyncomp.data.shapes import Shapes
from dyncomp.errors import InvalidValue


@pytest.mark.parametrize(
    ("options", "shape"),
    [({}, (1, 32, 32)), ({"channels": 3}, (3, 32, 32)), ({"size": 17}, (1, 17, 17))],
)
def test_options_shape_the_images(options: dict[str, Any], shape: tuple[int, ...]) -> None:
    splits = load(Shapes(images=25, **options))
    assert next(iter(splits.train.batches(25))).images.shape == (25, *shape)
    assert (len(splits.calibration), len(splits.test)) == (1000, 2000)


@pytest.mark.parametrize("options", [{"channels": 2}, {"images": 0}, {"size": 4}])
def test_impossible_options_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(InvalidValue, match=next(iter(options))):
        Shapes(**options)


def test_the_default_is_made_in_a_moment() -> None:
    start = time.perf_counter()
    load(Shapes())
    assert time.perf_counter() - start < 4  # 0.4 s on an idle core


def coverage(name: str, size: int = 400) -> float:
    """The area of an outline in units of its circumradius squared, by counting points."""
    axis = (torch.arange(size) + 0.5) / size * 2.4 - 1.2
    inside = OUTLINES[name](axis.expand(1, size, size), axis[:, None].expand(1, size, size)) < 0
    return inside.float().mean().item() * 2.4**2


@pytest.mark.parametrize(
    ("name", "area"),
    [
        ("bar", 4 * 0.95 * 0.3),
        ("cross", 2 * 4 * 0.95 * 0.3 - 4 * 0.3**2),
        ("disc", math.pi * 0.9**2),
        ("ring", math.pi * ((0.76 + 0.17) ** 2 - (0.76 - 0.17) ** 2)),
        ("square", 4 * 0.72**2),
        ("star", 10 * 0.5 * 0.42 * math.sin(math.pi / 5)),
        ("triangle", 3 * math.sqrt(3) / 4),
    ],
)
def test_outlines_have_the_area_of_their_shape(name: str, area: float) -> None:
    assert coverage(name) == pytest.approx(area, rel=0.01)


def test_outlines_stay_inside_their_circumradius_and_differ() -> None:
    angle = torch.linspace(0, 2 * math.pi, 721).view(1, 1, -1)
    for outline in OUTLINES.values():
        assert outline(1.06 * angle.cos(), 1.06 * angle.sin()).min() > 0
    areas = sorted(coverage(name, 200) for name in OUTLINES)
    assert min(areas) > 0.7
    assert max(areas) < 2.7


def test_distances_are_in_units_of_length() -> None:
    x, y = (torch.tensor(value).view(1, 1, -1) for value in ([3.0, 0.0, 2.0], [0.0, 0.0, 3.0]))
    assert box(x, y, 1.0, 2.0).flatten().tolist() == pytest.approx([2.0, -1.0, math.sqrt(2)])
    assert segment(x, y, torch.tensor(1.0)).flatten().tolist() == pytest.approx([2.0, 0.0, math.hypot(1, 3)])
    assert star(x, y, 4, math.cos(math.pi / 4))[..., 1].item() == pytest.approx(-math.sqrt(0.5))  # a square's inradius


class Small(nn.Sequential):
    """Four convolutions and a maximum over the image: 0.7 million multiply-adds."""

    def __init__(self) -> None:
        parts = [part for step in ((1, 16, 2), (16, 32, 2), (32, 64, 1), (64, 64, 2)) for part in layer(*step)]
        super().__init__(*parts, nn.AdaptiveMaxPool2d(1), nn.Flatten(), nn.Linear(64, 10))


def layer(inputs: int, outputs: int, stride: int) -> list[nn.Module]:
    return [nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()]


def losses_after(splits: Splits, epochs: int) -> tuple[Tensor, Tensor]:
    """Loss and correctness (N,) of each test image after a short training."""
    net = Small()
    optimizer = torch.optim.AdamW(net.parameters())
    steps = epochs * (len(splits.train) // 64)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-2, total_steps=steps)
    for number in range(epochs):
        for images, labels, _ in splits.train.batches(64, epoch=number, augment=True):
            optimizer.zero_grad()
            functional.cross_entropy(net(images), labels).backward()
            optimizer.step()
            schedule.step()
    net.eval()
    with torch.no_grad():
        logits = torch.cat([net(images) for images, _, _ in splits.test.batches(500)])
    labels = splits.test.labels
    return functional.cross_entropy(logits, labels, reduction="none"), logits.argmax(1) == labels


def test_a_small_network_learns_it_and_finds_the_hard_images_harder() -> None:
    splits = load(Shapes(images=2000))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        losses, right = losses_after(splits, epochs=5)
    assert splits.difficulty is not None
    easy_to_hard = [right[part].float().mean().item() for part in splits.difficulty.argsort().chunk(4)]
    assert right.float().mean() > 0.5  # chance is 0.1
    assert easy_to_hard[0] > easy_to_hard[-1] + 0.15
    assert torch.corrcoef(torch.stack([splits.difficulty, losses]))[0, 1] > 0.25
