"""Which precision a network trains in: what the processor can, and what is right."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from dyncomp import build
from dyncomp.core import Net, Output, Stage
from dyncomp.train import Recipe, train, trains_in_bfloat16
from tests.handmade import stripes

SPLITS = stripes(count=16)


def able(monkeypatch: pytest.MonkeyPatch, avx512: bool, amx: bool) -> None:
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: avx512)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx)


def network(backbone: str, image_size: int = 8) -> Net:
    return build("static", backbone, classes=2, in_channels=1, image_size=image_size)


@pytest.mark.parametrize(
    ("avx512", "amx", "expected"), [(False, False, False), (True, False, True), (False, True, True)]
)
def test_as_the_processor_can(avx512: bool, amx: bool, expected: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    able(monkeypatch, avx512, amx)
    assert trains_in_bfloat16(network("cifar_resnet8"), torch.zeros(1, 1, 8, 8)) is expected


@pytest.mark.parametrize(
    ("backbone", "size", "expected"),
    [
        ("cifar_resnet8", 8, True),  # its maps are 8, 4 and 2 pixels wide
        ("cifar_resnet8", 2, False),  # 2, 1, and then a convolution strides over the one
        ("mobilenet_v2", 8, False),  # halved five times
        ("mobilenet_v2", 32, True),
    ],
)
def test_never_where_a_convolution_strides_over_one_pixel(
    backbone: str, size: int, expected: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    able(monkeypatch, True, True)
    assert trains_in_bfloat16(network(backbone, size), torch.zeros(1, 1, size, size)) is expected


@pytest.mark.parametrize("training", [True, False])
def test_asking_changes_nothing(training: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    able(monkeypatch, True, True)
    net = network("cifar_resnet8").train(training)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    trains_in_bfloat16(net, torch.zeros(1, 1, 8, 8))
    assert net.training is training
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


@pytest.mark.parametrize(
    ("backbone", "avx512", "expected"),
    [
        ("cifar_resnet8", True, torch.bfloat16),
        ("cifar_resnet8", False, torch.float32),
        ("mobilenet_v2", True, torch.float32),
    ],
)
def test_training_follows(backbone: str, avx512: bool, expected: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    able(monkeypatch, avx512, False)
    seen: list[Any] = []

    def loss(output: Output, labels: Tensor, progress: float) -> Tensor:
        seen.append(output.logits.dtype)
        return F.cross_entropy(output.logits.float(), labels)

    net = network(backbone)
    train(net, SPLITS.train, [Stage("only", 1.0, loss)], Recipe(epochs=1, batch_size=16), 0)
    assert seen == [expected]
    assert {p.dtype for p in net.parameters()} == {torch.float32}
    assert all(bool(p.isfinite().all()) for p in net.parameters())
