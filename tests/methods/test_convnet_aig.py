"""ConvNet-AIG: its gate against the layers spelled out, its loss by hand, where gates stand."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from dyncomp import build, create_method
from dyncomp.core import Decision, Output, Trace
from dyncomp.errors import CannotAttach, InvalidValue
from dyncomp.methods.convnet_aig import BIASES, HIDDEN, ConvNetAIG
from dyncomp.ops import Gated
from dyncomp.ops.gumbel_gate import GumbelGate

IMAGES, CLASSES = 4, 3


def output(used: Tensor, chances: Tensor) -> Output:
    """A pass over gates whose maskers said these chances, with logits that know nothing."""
    sites = [str(t) for t in range(used.shape[1])]
    decisions = {s: Decision(*([used[:, t : t + 1]] * 3)) for t, s in enumerate(sites)}
    said = {f"{s}.gate": chances[:, t : t + 1] for t, s in enumerate(sites)}
    return Output(torch.zeros(IMAGES, CLASSES), Trace(decisions, dict.fromkeys(sites), IMAGES), None, said)


def entropy(p: float) -> float:
    return -sum(q * math.log(q) for q in (p, 1 - p) if q > 0)


@torch.no_grad()
def test_the_gate_is_the_papers() -> None:
    torch.manual_seed(0)
    gate, x = GumbelGate(8, HIDDEN, BIASES).eval(), torch.randn(5, 8, 6, 6)
    torch.nn.init.normal_(gate.head.weight)
    reduce, norm = gate.hidden[0], gate.hidden[1]
    pooled = x.flatten(2).mean(dim=2) @ reduce.weight.flatten(1).T
    hidden = (pooled / math.sqrt(1 + norm.eps)).relu()
    logits = hidden @ gate.head.weight.flatten(1).T + torch.tensor(BIASES)
    torch.testing.assert_close(gate(x), logits.softmax(dim=1)[:, 1:])


@torch.no_grad()
def test_gates_begin_open_for_about_85_percent_and_draw() -> None:
    torch.manual_seed(0)
    gate, x = GumbelGate(8, HIDDEN, BIASES).train(), torch.randn(4000, 8, 2, 2)
    drawn = (gate(x) > 0.5).float().mean()
    assert float(drawn) == pytest.approx(1 / (1 + math.exp(0.1 - 2.0)), abs=0.03)  # 0.87
    assert float(gate.eval()(x).min()) > 0.5


def test_the_loss_by_hand() -> None:
    used = torch.tensor([[1.0, 0.0], [1.0, 0.0], [1.0, 1.0], [0.0, 0.0]])
    chances = torch.tensor([[0.9, 0.2], [0.9, 0.2], [0.1, 0.2], [0.1, 0.2]])
    (stage,) = ConvNetAIG(target=0.6, weight=2.0, balance=0.5).stages()
    rates = ((0.75 - 0.6) ** 2 + (0.25 - 0.6) ** 2) / 2
    inside = 0.2 * (1 - 1 / IMAGES) + 0.5 / IMAGES  # rates stay half an image away from 0 and 1
    information = (entropy(0.5) - entropy(0.9) + entropy(inside) - entropy(0.2)) / 2
    loss = stage.loss(output(used, chances), torch.zeros(IMAGES, dtype=torch.long), 0.3)
    assert float(loss) == pytest.approx(math.log(CLASSES) + 2 * rates - 0.5 * information, abs=1e-3)
    papers = ConvNetAIG(balance=0.0).stages()[0]
    loss = papers.loss(output(used, chances), torch.zeros(IMAGES, dtype=torch.long), 0.3)
    assert float(loss) == pytest.approx(math.log(CLASSES) + 2 * rates, rel=1e-5)


@pytest.mark.parametrize(
    ("options", "gated", "wanted"),
    [
        ("targets=None", [1, 3, 5], [0.6] * 3),  # neither the first nor those that change the shape
        ("everywhere=True", [0, 1, 2, 3, 4, 5], [0.6] * 6),
        ("targets=(None, 0.5)", [1, 2, 3, 4, 5], [0.5] * 5),
        ("targets=(0.1, None, 0.3, None)", [0, 2], [0.1, 0.3]),
    ],
)
def test_targets_block_by_block(options: str, gated: list[int], wanted: list[float]) -> None:
    method = create_method(f"convnet_aig({options}, weight=1.0)")
    net = build(method, "cifar_resnet14", image_size=16)
    assert [name.removeprefix("model.") for name in net.sites] == [net.model.blocks[i] for i in gated]
    assert all(isinstance(op, Gated) and op.form == "residual" for op in net.sites.values())
    nothing = torch.zeros(IMAGES, len(gated))
    loss = method.stages()[0].loss(output(nothing, nothing), torch.zeros(IMAGES, dtype=torch.long), 0.0)
    aside = sum(t**2 for t in wanted) / len(wanted)
    assert float(loss) == pytest.approx(math.log(CLASSES) + aside, rel=1e-5)


def test_where_every_block_changes_the_shape_all_have_gates() -> None:
    assert len(build("convnet_aig", "cifar_resnet8", image_size=16).sites) == 3


@pytest.mark.parametrize("spec", ["convnet_aig(targets=(None,))", "convnet_aig(targets=(0.5, 1.5))"])
def test_wrong_targets_are_said(spec: str) -> None:
    with pytest.raises(InvalidValue, match=r"^convnet_aig: targets="):
        create_method(spec)


def test_a_backbone_without_shortcuts_is_refused() -> None:
    with pytest.raises(CannotAttach, match=r"^convnet_aig: mobilenet_v1"):
        build("convnet_aig", "mobilenet_v1(width=0.25)", image_size=16)


def test_noise_ends_before_the_training_does() -> None:
    net = build("convnet_aig(quiet=0.5)", "cifar_resnet8", image_size=16)
    adjust = ConvNetAIG(quiet=0.5).stages()[0].adjust
    assert adjust is not None
    noisy = []
    for progress in (0.0, 0.49, 0.51, 0.99):
        adjust(net, progress)
        noisy.append({m.noise.noisy for m in net.modules() if isinstance(m, GumbelGate)})
    assert noisy == [{True}, {True}, {False}, {False}]
