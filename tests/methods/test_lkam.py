"""LKAM as a method: its module against the paper's order, its loss by hand, soft and thresholded switches."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from dyncomp import build, create_method
from dyncomp.core import Output, Trace
from dyncomp.methods.lkam import Lkam, SwitchingModule

SMALL = {"classes": 5, "image_size": 8}


def test_pooling_first_gives_the_papers_switches() -> None:
    torch.manual_seed(0)
    module = SwitchingModule(nn.Conv2d(6, 10, 3), groups=1, start=0.9).double()
    x = torch.randn(4, 6, 7, 7, dtype=torch.float64)
    maps = F.conv2d(x, module.linear.weight[:, :, None, None], module.linear.bias)  # the paper's 1x1 convolution
    wanted = maps.mean(dim=(2, 3)).sigmoid()
    torch.testing.assert_close(module(module.pool(x)).probability, wanted, rtol=0, atol=1e-14)


@pytest.mark.parametrize(("groups", "units"), [(1, 12), (4, 3), (5, 3), (100, 1)])
def test_groups_are_as_large_as_divides_the_filters(groups: int, units: int) -> None:
    assert SwitchingModule(nn.Conv2d(6, 12, 3), groups, 0.9).units == units


def test_switches_multiply_softly_first_and_are_thresholded_later() -> None:
    torch.manual_seed(0)
    module = SwitchingModule(nn.Conv2d(6, 10, 3), groups=1, start=0.6)
    pooled = torch.randn(32, 6)
    switches = module.linear(pooled).sigmoid()
    chosen = (switches > 0.5).float()
    assert 0 < chosen.mean() < 1
    assert chosen.sum(1).min() > 0
    (stage,) = create_method("lkam(hard=0.25)").stages()
    assert stage.adjust is not None
    for progress, weight in ((0.0, switches), (0.74, switches), (0.75, chosen), (1.0, chosen)):
        stage.adjust(nn.ModuleList([module]), progress)
        decision = module.train()(pooled)
        torch.testing.assert_close(decision.weight, weight)
        assert torch.equal(decision.used, chosen)
        (gradient,) = torch.autograd.grad(decision.used.sum(), module.linear.bias)  # straight through the threshold
        torch.testing.assert_close(gradient, (switches * (1 - switches)).sum(0))
    stage.adjust(nn.ModuleList([module]), 0.0)
    assert torch.equal(module.eval()(pooled).weight, chosen)  # in use always


def test_the_strongest_switch_stays_on() -> None:
    module = SwitchingModule(nn.Conv2d(3, 4, 1), groups=1, start=0.9)
    nn.init.constant_(module.linear.bias, -5.0)
    decision = module(torch.randn(8, 3))
    assert decision.used.sum(1).tolist() == [1] * 8
    assert torch.equal(decision.used.argmax(1), decision.probability.argmax(1))


@pytest.mark.parametrize("progress", [0.0, 0.2, 0.4, 1.0])
@pytest.mark.parametrize("target", [None, 0.5])
def test_loss_is_the_papers_penalty_and_the_budget(progress: float, target: float | None) -> None:
    method = Lkam(target=target, gain=3.0, balance=0.0, budget_weight=7.0)
    net, labels = build(method, "cifar_resnet8", **SMALL).train(), torch.arange(6) % 5
    output: Output = net(torch.randn(6, 3, 8, 8, generator=torch.Generator().manual_seed(0)))
    pressure = min(1.0, progress / 0.4)
    wanted = F.cross_entropy(output.logits, labels)
    for decision in output.trace.values():
        m = decision.probability.shape[1]
        wanted = wanted + pressure * 3.0 / (2 * m) * decision.probability.sum(1).mean()
    if target is not None:
        wanted = wanted + 7.0 * (output.share().mean() - (1 - 0.5 * pressure)) ** 2
    stage = method.stages()[0]
    torch.testing.assert_close(stage.loss(output, labels, progress), wanted.float())


@torch.no_grad()
def test_balance_rewards_decisions_that_depend_on_the_image() -> None:
    method = Lkam(gain=0.0, budget_weight=0.0, balance=1.0)
    net, labels = build(method, "cifar_resnet8", **SMALL).train(), torch.arange(6) % 5
    output: Output = net(torch.randn(6, 3, 8, 8))
    alike = Trace({s: d.map(lambda t: t[:1].expand(6, -1)) for s, d in output.trace.items()}, {}, 6)
    plain = F.cross_entropy(output.logits, labels)
    same = Output(output.logits, alike, output.costs)
    loss = method.stages()[0].loss
    mixed = {s: d.map(lambda t: (torch.arange(6)[:, None] % 2).expand_as(t).float()) for s, d in output.trace.items()}
    varied = Output(output.logits, Trace(mixed, {}, 6), output.costs)
    assert float(plain - loss(varied, labels, 1.0)) == pytest.approx(0.693, abs=0.01)  # log 2: half of the images each
    assert float(loss(same, labels, 1.0)) > float(loss(varied, labels, 1.0)) + 0.4


@pytest.mark.parametrize("progress", [0.0, 0.5, 0.999])
def test_without_a_hard_part_switches_stay_soft_as_in_the_paper(progress: float) -> None:
    module = SwitchingModule(nn.Conv2d(3, 4, 1), groups=1, start=0.9).train()
    (stage,) = create_method("lkam(hard=0.0, target=None)").stages()
    assert stage.adjust is not None
    stage.adjust(nn.ModuleList([module]), progress)
    decision = module(torch.randn(8, 3))
    assert torch.equal(decision.weight, decision.probability)
