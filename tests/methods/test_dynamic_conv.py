"""Dynamic convolution: the attention's formula, its temperature, its published multiply-adds."""

from __future__ import annotations

import pytest
import torch

from dyncomp import build, create_method
from dyncomp.ops import Attention, Mixed


@pytest.mark.parametrize(
    ("backbone", "published", "within"),
    # with four kernels, millions; at half width the published count lies 1.8 % above what its layers execute
    [("resnet18", 1850.0, 1e-2), ("mobilenet_v2", 312.9, 1e-2), ("mobilenet_v2(width=0.5)", 101.4, 2e-2)],
)
def test_published_multiply_adds(backbone: str, published: float, within: float) -> None:
    net = build("dynamic_conv", backbone, classes=1000, image_size=224)
    assert net.costs is not None
    assert net.costs.full / 1e6 == pytest.approx(published, rel=within)


@pytest.mark.parametrize("temperature", [1.0, 30.0])
@torch.no_grad()
def test_attention_by_its_formula(temperature: float) -> None:
    attention = Attention(16, 4).double()
    attention.temperature = temperature
    x = torch.randn(5, 16, 3, 3, dtype=torch.float64)
    first, _, second = attention.layers
    pooled = x.sum(dim=(2, 3)) / 9
    hidden = (pooled @ first.weight.T + first.bias).clamp_min(0)
    logits = (hidden @ second.weight.T + second.bias) / temperature
    expected = torch.exp(logits) / torch.exp(logits).sum(1, keepdim=True)
    torch.testing.assert_close(attention(x), expected)
    assert first.out_features == 4


@pytest.mark.parametrize(("progress", "expected"), [(0.0, 31.0), (0.1, 21.0), (0.3, 1.0), (1.0, 1.0)])
def test_temperature_falls_linearly_to_one(progress: float, expected: float) -> None:
    method = create_method("dynamic_conv(temperature=31.0)")
    net = build(method, "cifar_resnet8", classes=3, in_channels=1, image_size=8)
    (stage,) = method.stages()
    assert stage.adjust is not None
    stage.adjust(net, progress)
    temperatures = {m.temperature for m in net.modules() if isinstance(m, Attention)}
    assert [round(t, 9) for t in temperatures] == [expected]


def test_every_convolution_of_the_blocks_has_an_attention_of_its_own() -> None:
    net = build("dynamic_conv(kernels=3)", "cifar_resnet8", classes=3, in_channels=1, image_size=8)
    assert len(net.sites) == 3 * 2 + 2  # bodies, and two projection shortcuts
    assert all(isinstance(op, Mixed) and op.units == 3 for op in net.sites.values())
    assert len({id(op.router) for op in net.sites.values() if isinstance(op, Mixed)}) == len(net.sites)
