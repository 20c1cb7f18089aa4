"""LAUDNet's layer skipping: its losses by hand, its teacher, its temperature."""

from __future__ import annotations

import copy
import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dyncomp import build, create_method
from dyncomp.core import Costs, Decision, Net, Output, SiteCost, Trace
from dyncomp.core.decisions import all_on
from dyncomp.core.initial import PLAIN
from dyncomp.core.losses import divergence
from dyncomp.errors import CannotAttach
from dyncomp.methods.laudnet import LAUDNet
from dyncomp.ops import Gated
from dyncomp.ops.gumbel_gate import GumbelGate

IMAGES, GATES, CLASSES = 4, 2, 3
SMALL = {"classes": CLASSES, "image_size": 16}


def output(used: Tensor, logits: Tensor, teacher: Tensor | None = None) -> Output:
    """A pass over two gates whose bodies cost 20 and 40 MACs, on 40 that always run; gates are free."""
    sites = {f"{t}": SiteCost(0, (20 * (t + 1),), None) for t in range(GATES)}
    decisions = {s: Decision(*([used[:, int(s)][:, None]] * 3)) for s in sites}
    said = {f"{s}.gate": torch.full((IMAGES, 1), 0.5) for s in sites}
    said |= {} if teacher is None else {"teacher": teacher}
    return Output(logits, Trace(decisions, dict.fromkeys(sites), IMAGES), Costs(40, sites, (3, 8, 8), ()), said)


@pytest.mark.parametrize(("progress", "tight"), [(0.0, 1.0), (1 / 6, 0.5), (0.4, 0.0), (1.0, 0.0)])
def test_budget_and_bounds_by_hand(progress: float, tight: float) -> None:
    used = torch.tensor([[1.0, 0.0], [1.0, 0.0], [1.0, 0.0], [1.0, 1.0]])  # rates 1 and 1/4
    share = (40 + 20 + 40 / 4) / 100
    low, high = 0.6 * tight, 1 - 0.4 * tight
    bounds = (max(0.0, 1 - high) ** 2 + max(0.0, low - 0.25) ** 2) / 2
    finetune = LAUDNet(target=0.6, weight=10.0, distillation=0.0).stages()[0]
    loss = finetune.loss(output(used, torch.zeros(IMAGES, CLASSES)), torch.zeros(IMAGES, dtype=torch.long), progress)
    assert float(loss) == pytest.approx(math.log(CLASSES) + 10 * ((share - 0.6) ** 2 + bounds), rel=1e-5)


def test_the_distillation_by_hand() -> None:
    generator = torch.Generator().manual_seed(0)
    logits, teacher = (torch.randn(IMAGES, CLASSES, generator=generator) * 3 for _ in range(2))
    total = 0.0
    for ours, theirs in zip(logits.tolist(), teacher.tolist(), strict=True):
        q, p = ([math.exp(z / 4) for z in row] for row in (ours, theirs))
        total += sum(a / sum(p) * math.log((a / sum(p)) / (b / sum(q))) for a, b in zip(p, q, strict=True))
    assert float(divergence(logits, teacher, 4.0)) == pytest.approx(16 * total / IMAGES, rel=1e-4)
    used, labels = torch.ones(IMAGES, GATES), torch.arange(IMAGES) % CLASSES
    method = LAUDNet(weight=0.0, distillation=0.5)
    (stage,) = method.stages()
    without = stage.loss(output(used, logits), labels, 1.0)
    with_teacher = stage.loss(output(used, logits, teacher), labels, 1.0)
    assert float(with_teacher - without) == pytest.approx(0.5 * 16 * total / IMAGES, rel=1e-4)
    alone = method.loss(output(used, logits, teacher), labels)  # what is not about gates
    assert float(alone) == pytest.approx(float(F.cross_entropy(logits, labels)) + 8 * total / IMAGES, rel=1e-4)


def begun(spec: str = "laudnet") -> tuple[Net, Net]:
    """The network as its training begins, and the plain backbone that it begins with."""
    method = create_method(spec)
    net, plain = build(method, "cifar_resnet8", **SMALL), build("static", "cifar_resnet8", seed=1, **SMALL)
    method.inherit(net, {PLAIN: plain}, list)
    return net, plain


def test_the_teacher_is_the_plain_net_of_before_and_stays_so() -> None:
    net, plain = begun()
    images = torch.randn(5, 3, 16, 16)
    wanted = copy.deepcopy(plain)(images).logits.detach()
    torch.testing.assert_close(net(images, decisions=all_on(net, 5)).logits.detach(), wanted)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(1.0)
    said = net.train()(images).said["teacher"]
    torch.testing.assert_close(said, wanted)
    assert not said.requires_grad
    assert "teacher" not in net.eval()(images, sparse=False).said


def test_without_distillation_nobody_teaches() -> None:
    net, _ = begun("laudnet(distillation=0.0)")
    assert "teacher" not in net.train()(torch.randn(5, 3, 16, 16)).said


def test_the_teacher_is_neither_saved_nor_counted_but_copied_and_converted() -> None:
    net, plain = begun()
    fresh = build("laudnet", "cifar_resnet8", **SMALL)
    assert list(net.state_dict()) == list(fresh.state_dict())
    assert [name for name, _ in net.named_parameters()] == [name for name, _ in fresh.named_parameters()]
    images = torch.randn(5, 3, 16, 16, dtype=torch.float64)
    said = copy.deepcopy(net).double().train()(images).said["teacher"]
    assert said.dtype == torch.float64
    torch.testing.assert_close(said, copy.deepcopy(plain).double()(images).logits.detach())


def test_it_is_fine_tuned_at_a_fifth_of_the_rate_with_maskers_that_begin_open() -> None:
    (stage,) = LAUDNet().stages()
    assert (stage.name, stage.share, stage.learning_rate, stage.restarts) == ("finetune", 1.0, 0.2, False)
    assert LAUDNet(learning_rate=0.5).stages()[0].learning_rate == 0.5
    net, _ = begun()
    with torch.no_grad():
        chances = torch.cat([d.probability for d in net(torch.randn(5, 3, 16, 16)).trace.values()])
    assert float(chances.mean()) == pytest.approx(1 / (1 + math.exp(-5.0)), abs=0.005)


def test_the_temperature_falls_from_5_to_a_tenth_exponentially() -> None:
    net = build("laudnet", "cifar_resnet8", **SMALL)
    adjust = LAUDNet().stages()[0].adjust
    assert adjust is not None
    seen = []
    for progress in (0.0, 0.5, 1.0):
        adjust(net, progress)
        seen += [m.noise.temperature for m in net.modules() if isinstance(m, GumbelGate)][:1]
    assert seen == pytest.approx([5.0, math.sqrt(5.0 * 0.1), 0.1])


def test_every_residual_block_has_a_masker_of_the_papers_form() -> None:
    net = build("laudnet", "cifar_resnet14", **SMALL)
    assert len(net.sites) == 6
    for op in net.sites.values():
        assert isinstance(op, Gated)
        assert isinstance(op.gate, GumbelGate)
        convolutions = [m for m in op.gate.modules() if isinstance(m, nn.Conv2d)]
        assert [(c.in_channels, c.out_channels) for c in convolutions] == [(op.block.in_channels, 2)]
    with pytest.raises(CannotAttach, match=r"^laudnet: mobilenet_v1"):
        build("laudnet", "mobilenet_v1(width=0.25)", **SMALL)
