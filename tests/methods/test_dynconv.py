"""DynConv: where masks look, what they cost, and the bounds of the loss."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from dyncomp import build, create_method
from dyncomp.core import Output, Trace
from dyncomp.methods.dynconv import DynConv, MaskUnit
from dyncomp.ops import Masked
from dyncomp.ops.pixels import applied, dilated, neighbourhoods

CONVS = [
    nn.Conv2d(3, 5, 3, 1, 1),
    nn.Conv2d(3, 5, 3, 2, 1, bias=False),
    nn.Conv2d(3, 5, 1, 2),
    nn.Conv2d(4, 4, 5, 1, 2, groups=4),
    nn.Conv2d(4, 4, 3, 2, 1, groups=4, bias=False),
]


@pytest.mark.parametrize("conv", CONVS, ids=str)
@pytest.mark.parametrize("side", [6, 7])
@torch.no_grad()
def test_a_convolution_at_pixels_is_the_convolution_there(conv: nn.Conv2d, side: int) -> None:
    conv = conv.double()
    x = torch.randn(3, conv.in_channels, side, side, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    whole = conv(x)
    mask = torch.rand(3, *whole.shape[2:], generator=torch.Generator().manual_seed(1)) < 0.4
    image, row, column = mask.nonzero(as_tuple=True)
    found = applied(conv, neighbourhoods(conv, x, (image, row, column)))
    torch.testing.assert_close(found, whole[image, :, row, column], rtol=0, atol=1e-12)


@pytest.mark.parametrize("conv", CONVS, ids=str)
@torch.no_grad()
def test_dilated_pixels_are_those_that_the_output_depends_on(conv: nn.Conv2d) -> None:
    ones = nn.Conv2d(1, 1, conv.kernel_size, conv.stride, conv.padding, bias=False)
    nn.init.ones_(ones.weight)
    side = 7
    out = ones(torch.zeros(1, 1, side, side)).shape[-1]
    for row in range(out):
        for column in range(out):
            wanted = torch.zeros(1, 1, out, out)
            wanted[0, 0, row, column] = 1
            with torch.enable_grad():
                x = torch.zeros(1, 1, side, side, requires_grad=True)
                (read,) = torch.autograd.grad((ones(x) * wanted).sum(), x)
            assert torch.equal(dilated(wanted, ones, (side, side)), (read > 0).float())


def test_a_masked_block_costs_its_pixels() -> None:
    net = build("dynconv", "cifar_resnet8", classes=3, in_channels=1, image_size=8)
    op = next(op for op in net.sites.values() if isinstance(op, Masked))
    assert net.costs is not None
    cost = net.costs.sites[op.site]
    assert op.units == 2 * 8 * 8
    assert cost.units == (16 * 16 * 9,) * op.units
    masker = 8 * 8 * 16 * 9 + 16
    assert cost.overhead == masker


@pytest.mark.parametrize(("progress", "tight"), [(0.0, 1.0), (1 / 6, 0.5), (1 / 3, 0.0), (0.9, 0.0)])
@pytest.mark.parametrize("rate", [0.0, 0.3, 0.9])
def test_the_loss_by_hand(progress: float, tight: float, rate: float) -> None:
    method = create_method("dynconv(target=0.4, weight=2.0, balance=0.0)")
    assert isinstance(method, DynConv)
    net = build(method, "cifar_resnet8", classes=3, in_channels=1, image_size=8)
    images, labels = torch.randn(4, 1, 8, 8), torch.tensor([0, 1, 2, 0])
    forced = {site: op.forced(*[(torch.rand(4, op.units) < rate).float()] * 2) for site, op in net.sites.items()}
    with torch.no_grad():
        output: Output = net(images, sparse=False, decisions=forced)
    (stage,) = method.stages()
    low, high = 0.4 * tight, 1 - 0.6 * tight
    bounds, spent, whole = [], 0.0, 0.0  # of the bodies alone: what always runs, and masks, are not the budget's
    assert net.costs is not None
    for site, cost in net.costs.sites.items():
        used = float((output.trace[site].used @ torch.tensor(cost.units, dtype=torch.float32)).mean())
        share = used / sum(cost.units)
        bounds.append(max(0.0, low - share) ** 2 + max(0.0, share - high) ** 2)
        spent, whole = spent + used, whole + sum(cost.units)
    share = spent / whole
    expected = F.cross_entropy(output.logits, labels) + 2 * ((share - 0.4) ** 2 + sum(bounds) / len(bounds))
    torch.testing.assert_close(stage.loss(output, labels, progress), expected, rtol=1e-4, atol=1e-5)


def test_the_budget_pulls_at_the_masks_own_pixels_and_not_at_those_that_they_need() -> None:
    method = create_method("dynconv(target=0.4, weight=2.0)")
    net = build(method, "cifar_resnet8", classes=3, in_channels=1, image_size=8).double()
    images = torch.randn(4, 1, 8, 8, dtype=torch.float64)
    with torch.no_grad():
        output: Output = net(images, sparse=False)
    trace = {site: d.map(lambda t: t.clone().requires_grad_()) for site, d in output.trace.items()}
    seen = replace(output, trace=Trace(trace, output.trace.parents, 4))
    (stage,) = method.stages()
    stage.loss(seen, torch.tensor([0, 1, 2, 0]), 1.0).backward()  # bounds have let go
    assert net.costs is not None
    costs = {site: torch.tensor(net.costs.sites[site].units, dtype=torch.float64) for site in trace}
    whole = sum(float(cost.sum()) for cost in costs.values())
    share = sum(float((d.used.detach() @ costs[site]).mean()) for site, d in trace.items()) / whole
    for site, decision in trace.items():
        op = net.sites[site]
        assert isinstance(op, Masked)
        wanted = 2 * 2 * (share - 0.4) * costs[site].expand(4, -1) / 4 / whole
        wanted[:, : op.spans[-1].start] = 0
        torch.testing.assert_close(decision.used.grad, wanted, rtol=1e-5, atol=1e-9)
        assert bool(wanted.any())


def test_masks_are_noisy_in_training_until_the_last_fifth() -> None:
    masker = MaskUnit(4, 1, 1.0).train()
    x = torch.randn(2, 4, 6, 6)
    assert not torch.equal(masker(x), masker(x))
    net = build("dynconv", "cifar_resnet8", classes=3, in_channels=1, image_size=8).train()
    (stage,) = create_method("dynconv").stages()
    assert stage.adjust is not None
    for progress, noisy in ((0.0, True), (0.79, True), (0.8, False)):
        stage.adjust(net, progress)
        assert {m.concrete.noisy for m in net.modules() if isinstance(m, MaskUnit)} == {noisy}
    assert torch.equal(masker.eval()(x), masker(x))
    logits = masker.pixels(x) + masker.whole(x.mean((2, 3)))[:, :, None, None]
    torch.testing.assert_close(masker(x), 1 / (1 + torch.exp(-logits)))
    assert math.isclose(float(masker(torch.zeros(1, 4, 6, 6)).detach().mean()), 0.8, rel_tol=1e-5)
