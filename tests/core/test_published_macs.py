"""Multiply-adds by our own counter, on built networks, against publication, formulas and two peers' counters."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode
from torchvision.ops import SqueezeExcitation

from dyncomp import build
from dyncomp.core import Costs, Net, execute_and_count
from dyncomp.ops.experts import ExpertLayer
from dyncomp.ops.gates import Router

# method, backbone, image size, classes, published multiply-adds in millions
PUBLISHED = [
    ("static", "resnet101", 224, 1000, 7801.0),  # v1.5, the stride in the 3x3
    ("static", "resnet50", 224, 1000, 4089.0),
    ("static", "mobilenet_v1", 224, 1000, 568.7),
    ("condconv(experts=8)", "mobilenet_v1", 224, 1000, 601.4),  # paper's Table 1: 600
    ("condconv(experts=8)", "resnet50", 224, 1000, 4212.6),  # paper's Table 1: 4213
    ("condconv(experts=8)", "mobilenet_v2", 224, 1000, 323.1),  # last six blocks, classifier; not the paper's 329
    ("static", "cifar_resnet38", 32, 10, 83.28),
    ("static", "cifar_resnet38(shortcut='pad')", 32, 10, 83.02),
    ("static", "cifar_resnet110(shortcut='pad')", 32, 10, 252.89),  # BlockDrop's full network
    ("skipnet", "cifar_resnet38", 32, 10, 83.28),  # gates free of charge
]


# CondConv's own Table 1, in millions
TABLE_1 = [
    ("static", "mobilenet_v1", 567),
    ("static", "mnasnet_a1", 312),
    ("static", "resnet50", 4093),
    ("condconv", "mobilenet_v1", 600),
    ("condconv", "mnasnet_a1", 325),
    ("condconv", "resnet50", 4213),
]


def costs_of(net: Net) -> Costs:
    assert net.costs is not None
    return net.costs


@pytest.mark.parametrize(("method", "backbone", "size", "classes", "millions"), PUBLISHED)
def test_the_counter_agrees_with_publication(
    method: str, backbone: str, size: int, classes: int, millions: float
) -> None:
    costs = costs_of(build(method, backbone, classes=classes, image_size=size))
    counted = costs.full if method.startswith("condconv") else costs.without_overhead
    assert counted / 1e6 == pytest.approx(millions, rel=1e-3)
    assert costs.uncounted == ()


@pytest.mark.parametrize(("method", "backbone", "millions"), TABLE_1)
def test_condconvs_table_is_reproduced(method: str, backbone: str, millions: float) -> None:
    assert costs_of(build(method, backbone, classes=1000, image_size=224)).full / 1e6 == pytest.approx(
        millions, rel=5e-3
    )


@pytest.mark.parametrize(("method", "counted", "published"), [("static", 385.8, 391), ("condconv", 407.2, 413)])
def test_efficientnets_published_count_has_the_values_that_squeeze_and_excitation_reads_and_scales(
    method: str, counted: float, published: float
) -> None:
    net = build(method, "efficientnet_b0", classes=1000, image_size=224)
    scaled: list[int] = []

    def note(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        scaled.append(inputs[0].numel())

    for module in net.modules():
        if isinstance(module, SqueezeExcitation):
            module.register_forward_hook(note)
    net(torch.zeros(1, 3, 224, 224))
    macs = costs_of(net).full / 1e6  # by our convention, 1.4 % below the paper's
    assert macs == pytest.approx(counted, abs=0.05)
    assert macs + 2 * sum(scaled) / 1e6 == pytest.approx(published, rel=5e-3)


@pytest.mark.parametrize(
    ("backbone", "size", "classes"),
    [("mobilenet_v1", 224, 1000), ("cifar_resnet14", 32, 10), ("efficientnet_b0", 64, 10)],
)
def test_condconv_adds_its_experts_and_routers_and_nothing_else(backbone: str, size: int, classes: int) -> None:
    experts = 8
    plain = costs_of(build("static", backbone, classes=classes, image_size=size)).full
    net = build(f"condconv(experts={experts})", backbone, classes=classes, image_size=size)
    layers = [m for m in net.modules() if isinstance(m, ExpertLayer)]
    replaced = sum(m.weight[0].numel() + (0 if m.bias is None else m.bias[0].numel()) for m in layers)
    routing = sum(m.linear.in_features * experts for m in net.modules() if isinstance(m, Router))
    assert costs_of(net).full == plain + experts * replaced + routing


def test_condconv_on_efficientnet_b0_has_the_published_parameters() -> None:
    net = build("condconv(experts=8)", "efficientnet_b0", classes=1000, image_size=64)
    assert sum(p.numel() for p in net.parameters()) / 1e6 == pytest.approx(24.0, abs=0.05)  # paper's repository


@pytest.mark.parametrize(("backbone", "size"), [("cifar_resnet14", 32), ("mobilenet_v2", 64)])
def test_fvcore_counts_the_same(backbone: str, size: int) -> None:
    net = build("static", backbone, classes=10, image_size=size)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # the peer stands on torch.jit
        warnings.simplefilter("ignore", DeprecationWarning)
        from fvcore.nn import FlopCountAnalysis

        analysis = FlopCountAnalysis(net.model.eval(), torch.zeros(1, 3, size, size))
        operators = analysis.unsupported_ops_warnings(False).by_operator()
    assert costs_of(net).full == operators["conv"] + operators["linear"]


@pytest.mark.parametrize("method", ["skipnet", "skipnet(gate='ff2', start=0.51)", "condconv(experts=3)"])
@pytest.mark.parametrize("backbone", ["cifar_resnet8", "mobilenet_v2"])
@torch.no_grad()
def test_torchs_counter_sees_the_same_operators_in_the_sparse_form(method: str, backbone: str) -> None:
    net = build(method, backbone, image_size=32)
    images = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with FlopCounterMode(display=False) as peer:
        macs = net(images).macs()
    assert peer.get_total_flops() % 2 == 0
    assert peer.get_total_flops() // 2 == execute_and_count(net, images).macs == int(macs.sum())
