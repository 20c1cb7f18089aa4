"""FBS as a method: its layer against the paper's formula, constant price, falling density, weights taken over."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from dyncomp import build, create_method
from dyncomp.core import Net
from dyncomp.methods.fbs import Saliency
from dyncomp.ops import Filtered

SMALL = {"classes": 5, "image_size": 8}


def images(count: int = 6) -> Tensor:
    return torch.randn(count, 3, 8, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def layer(backbone: str) -> Filtered:
    net: Net = build("fbs", backbone, **SMALL).double()
    op = list(net.sites.values())[-1]
    assert isinstance(op, Filtered)
    return op


@pytest.mark.parametrize(("density", "filters", "kept"), [(0.5, 5, 3), (0.7, 10, 7), (0.01, 8, 1), (1.0, 8, 8)])
def test_the_ceiling_of_the_density_is_kept(density: float, filters: int, kept: int) -> None:
    switch = Saliency(4, filters, density)
    assert switch(torch.rand(16, 4)).used.sum(1).tolist() == [kept] * 16


def test_winners_have_the_greatest_gamma() -> None:
    torch.manual_seed(0)
    switch, pooled = Saliency(4, 9, 0.4), torch.rand(16, 4)
    gamma = switch.linear(pooled).relu()
    wanted = torch.zeros(16, 9)
    for row, best in zip(wanted, gamma.argsort(dim=1, descending=True)[:, : math.ceil(0.4 * 9)], strict=True):
        row[best] = 1
    decision = switch(pooled)
    assert torch.equal(decision.used, wanted)
    assert not decision.used.requires_grad  # the mask passes no gradient
    torch.testing.assert_close(decision.weight, wanted * gamma)


@pytest.mark.parametrize("backbone", ["cifar_resnet8", "vgg11(width=0.125)", "vgg11(width=0.125, norm='batch')"])
@torch.no_grad()
def test_a_layer_is_the_papers_formula(backbone: str) -> None:
    torch.manual_seed(0)
    op = layer(backbone)
    channels = op.producer.in_channels
    x = torch.randn(5, channels, 4, 4, dtype=torch.float64)
    shift = op.after[0].bias.normal_()
    y = op.producer(x)
    if len(op.before):
        norm = op.before[0]
        mean, variance = norm.running_mean.normal_(), norm.running_var.uniform_(0.5, 2)
        y = (y - mean[:, None, None]) / (variance[:, None, None] + norm.eps).sqrt()
    seen = x.abs().mean((2, 3))
    linear = op.switch.linear
    gamma = (seen @ linear.weight.T + linear.bias).relu()
    mask = torch.zeros_like(gamma).scatter(1, gamma.topk(gamma.shape[1] // 2).indices, 1.0)[..., None, None]
    y = (mask * (gamma[..., None, None] * y + shift[:, None, None])).relu()
    for rest in list(op.after)[2:]:  # behind shift and ReLU
        y = rest(y)
    torch.testing.assert_close(op.dense(x, op.decide(x)), op.consumer(y), rtol=0, atol=1e-12)


@pytest.mark.parametrize("backbone", ["cifar_resnet8", "vgg11(width=0.125)"])
@torch.no_grad()
def test_every_image_costs_the_same(backbone: str) -> None:
    net = build("fbs", backbone, **SMALL).double()
    output = net(images())
    assert len(output.macs().unique()) == 1
    assert len(output.trace.routes().unique(dim=0)) > 1


def test_density_falls_from_one_in_the_first_half() -> None:
    net = build("fbs(density=0.2)", "cifar_resnet8", **SMALL)
    stage = create_method("fbs(density=0.2)").stages()[1]
    assert stage.adjust is not None
    for progress, wanted in ((0.0, 1.0), (0.25, 0.6), (0.5, 0.2), (0.9, 0.2)):
        stage.adjust(net, progress)
        found = [module.density for module in net.modules() if isinstance(module, Saliency)]
        assert found == pytest.approx([wanted] * 3)


def test_the_switches_learn_alone_first_with_every_filter_in_use() -> None:
    gates, rest = create_method("fbs(density=0.2)").stages()
    assert (gates.share, rest.share) == (pytest.approx(0.1), pytest.approx(0.9))
    net = build("fbs(density=0.2)", "cifar_resnet8", **SMALL).double().train()
    learning = {name for name, _ in net.named_parameters() if gates.trains(name)}
    assert learning == {f"model.{site}.switch.linear.{part}" for site in net.sites for part in ("weight", "bias")}
    assert all(rest.trains(name) for name, _ in net.named_parameters())
    assert gates.adjust is not None
    for progress in (0.0, 0.5, 1.0):
        gates.adjust(net, progress)
        assert all(bool((decision.used == 1).all()) for decision in net(images()).trace.values())


def test_gamma_and_beta_begin_as_the_normalisations_scale_and_shift() -> None:
    net = build("fbs", "cifar_resnet8", **SMALL)
    for name, op in net.sites.items():
        assert isinstance(op, Filtered)
        assert op.before[0].weight is None
        assert net.origins[f"model.{name}.switch.linear.bias"].endswith("body.bn1.weight")
        assert net.origins[f"model.{name}.after.0.bias"].endswith("body.bn1.bias")
        assert torch.equal(op.switch.linear.bias, torch.ones(op.units))


def test_weights_begin_as_the_papers() -> None:
    torch.manual_seed(0)
    switch = Saliency(300, 200, 0.5)
    assert switch.linear.weight.std().item() == pytest.approx(0.05, rel=0.02)
    assert switch.linear.bias.tolist() == [1.0] * 200


def test_loss_adds_the_gammas_in_use() -> None:
    net = build("fbs(l1=0.5, balance=0.0)", "cifar_resnet8", **SMALL).double().train()
    labels = torch.arange(6) % 5
    output = net(images())
    gammas = sum(decision.weight.sum() for decision in output.trace.values()) / 6
    wanted = F.cross_entropy(output.logits.float(), labels) + 0.5 * gammas.float()
    for stage in create_method("fbs(l1=0.5, balance=0.0)").stages():
        torch.testing.assert_close(stage.loss(output, labels, 1.0), wanted, rtol=1e-5, atol=1e-5)
