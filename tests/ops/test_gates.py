"""Gates: what they cost, how they start, and the recurrent one against a library's LSTM."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from dyncomp import build
from dyncomp.core import Net, ResidualBlock
from dyncomp.core.counter import MacCounter
from dyncomp.ops import FeedForwardGate, RecurrentGate, shared_recurrence
from dyncomp.ops.gated import Gated
from tests.small import CLASSES, C, conv, gated, images, network, only

BLOCK = 2 * 16 * 16 * 9 * 32 * 32  # 4.719 M: two 3x3 convolutions, 16 channels, 32 x 32 pixels
FLOAT = 1e-12


def recurrent(channels: int, start: float = 0.9) -> RecurrentGate:
    return RecurrentGate(channels, *shared_recurrence(10, start))


@pytest.mark.parametrize(
    ("gate", "percent", "macs"),
    [
        (FeedForwardGate(16, deep=True, start=0.9), 15.6, 16 * 16 * 9 * (16 * 16 + 8 * 8) + 16 * 2),
        (FeedForwardGate(16, deep=False, start=0.9), 12.5, 16 * 16 * 9 * 16 * 16 + 16 * 2),
        (recurrent(16), 0.0205, 16 * 10 + 2 * 10 * 40 + 10),
        (recurrent(64), 0.0307, 64 * 10 + 2 * 10 * 40 + 10),  # in the last stage, where the blocks cost the same
    ],
    ids=["FFGate-I", "FFGate-II", "recurrent", "recurrent, last stage"],
)
@torch.no_grad()
def test_gates_cost_what_the_paper_says(gate: nn.Module, percent: float, macs: int) -> None:
    gate.eval()
    with MacCounter() as counter:
        gate(torch.zeros(1, gate.projection.in_channels if isinstance(gate, RecurrentGate) else 16, 32, 32))
    assert counter.total == macs
    assert 100 * macs / BLOCK == pytest.approx(percent, rel=0.01)


@pytest.mark.parametrize("kind", ["rnn", "ff1", "ff2"])
@pytest.mark.parametrize("backbone", ["cifar_resnet8", "cifar_resnet20", "mobilenet_v2"])
@pytest.mark.parametrize("training", [True, False])
@torch.no_grad()
def test_gates_begin_open(kind: str, backbone: str, training: bool) -> None:
    net = build(f"skipnet(gate={kind!r})", backbone, image_size=16).train(training)
    x = torch.randn(32, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    decisions = net(x).trace.values()
    assert float(torch.stack([d.used.mean() for d in decisions]).mean()) > 0.97
    assert 0.7 < float(torch.stack([d.probability.mean() for d in decisions]).mean()) < 0.99


@pytest.mark.parametrize("start", [0.6, 0.9])
@pytest.mark.parametrize("kind", ["rnn", "ff1", "ff2"])
@torch.no_grad()
def test_a_gate_without_features_opens_with_the_probability_it_starts_with(kind: str, start: float) -> None:
    gate = recurrent(4, start) if kind == "rnn" else FeedForwardGate(4, kind == "ff1", start)
    for name, parameter in gate.named_parameters():
        if not name.startswith("head.bias"):
            parameter.zero_()
    assert gate.eval()(torch.randn(2, 4, 6, 6)).flatten().tolist() == pytest.approx([start, start])


@pytest.mark.parametrize(("deep", "side"), [(True, 1), (True, 2), (True, 7), (False, 1), (False, 7)])
@torch.no_grad()
def test_feed_forward_gates_layer_by_layer(deep: bool, side: int) -> None:
    gate = FeedForwardGate(C, deep, 0.9).double().eval()
    x = torch.randn(3, C, side, side, dtype=torch.float64)
    y = nn.functional.max_pool2d(x, 2, ceil_mode=True) if deep else x
    convolutions = [m for m in gate.features if isinstance(m, nn.Conv2d)]
    assert [c.stride[0] for c in convolutions] == ([1, 2] if deep else [2])
    for layer, norm in zip(convolutions, [m for m in gate.features if isinstance(m, nn.BatchNorm2d)], strict=True):
        y = torch.relu(norm(nn.functional.conv2d(y, layer.weight, None, layer.stride, 1)))
    logits = y.mean((2, 3)) @ gate.head.weight.flatten(1).T + gate.head.bias
    wanted = logits[:, 1].exp() / logits.exp().sum(1)
    torch.testing.assert_close(gate(x)[:, 0], wanted, rtol=0, atol=FLOAT)


class Chain(nn.Module):
    """Gated blocks in a row, with the features that entered each of them kept."""

    def __init__(self, length: int) -> None:
        super().__init__()
        cell, head = shared_recurrence(10, 0.6)
        nn.init.normal_(head.weight, std=3)
        self.blocks = nn.ModuleList(gated(conv(), RecurrentGate(C, cell, head)) for _ in range(length))
        self.entered: list[Tensor] = []

    def forward(self, x: Tensor) -> Tensor:
        self.entered = []
        for block in self.blocks:
            self.entered.append(x)
            x = block(x)
        return x.mean(dim=(2, 3))


def lstm_of(cell: nn.LSTMCell) -> nn.LSTM:
    lstm = nn.LSTM(10, 10, batch_first=True).double()
    names = {"weight_ih": "weight_ih_l0", "weight_hh": "weight_hh_l0", "bias_ih": "bias_ih_l0", "bias_hh": "bias_hh_l0"}
    lstm.load_state_dict({names[name]: value for name, value in cell.state_dict().items()})
    return lstm


@pytest.mark.parametrize("sparse", [True, False])
@torch.no_grad()
def test_the_recurrent_gate_is_an_lstm_over_the_blocks(sparse: bool) -> None:
    torch.manual_seed(0)
    chain = Chain(4).double()
    net = Net(chain).eval()
    output = net(images(), sparse=sparse)
    gates = [block.gate for block in chain.blocks]
    sequence = torch.stack(
        [
            x.mean((2, 3)) @ g.projection.weight.flatten(1).T + g.projection.bias
            for x, g in zip(chain.entered, gates, strict=True)
        ],
        dim=1,
    )  # (B, blocks, 10)
    hidden, _ = lstm_of(gates[0].cell)(sequence)
    wanted = torch.sigmoid(hidden @ gates[0].head.weight.T + gates[0].head.bias)[:, :, 0]  # (B, blocks)
    ours = torch.cat([d.probability for d in output.trace.values()], dim=1)
    torch.testing.assert_close(ours, wanted, rtol=0, atol=FLOAT)
    assert 0 < float((ours > 0.5).double().mean()) < 1


@torch.no_grad()
def test_no_state_leaks_from_one_pass_to_the_next() -> None:
    net = Net(Chain(3).double()).eval()
    first = net(images()).trace
    net(images(5, seed=3))
    second = net(images()).trace
    assert all(torch.equal(first[site].probability, second[site].probability) for site in first)


@pytest.mark.parametrize("kind", ["rnn", "ff1", "ff2"])
def test_under_autocast_chances_are_exact_enough_and_gates_learn(kind: str) -> None:
    net = build(f"skipnet(gate={kind!r})", "cifar_resnet8", image_size=16).train()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = net(torch.randn(4, 3, 16, 16))
    assert output.logits.dtype == torch.bfloat16
    for decision in output.trace.values():
        assert decision.probability.dtype == torch.float32
        assert set(decision.used.unique().tolist()) <= {0.0, 1.0}
    assert output.macs().detach().frac().abs().max() == 0
    (output.logits.float().square().mean() + output.share().mean()).backward()
    moved = {name: bool(p.grad.any()) for name, p in net.named_parameters() if ".gate." in name and p.grad is not None}
    assert moved
    assert all(moved.values())


def test_a_gate_learns_from_the_price_alone() -> None:
    net = network(lambda: [gated(conv())])
    net.train()
    net(images()).macs().sum().backward()
    op = net.sites["0"]
    assert isinstance(op, Gated)
    assert all(p.grad is not None and bool(p.grad.any()) for p in op.gate.parameters())
    assert all(p.grad is None for p in op.block.parameters())


def test_sampling_draws_in_training_only() -> None:
    net = network(lambda: [gated(conv(), FeedForwardGate(C, deep=False, start=0.6))])
    net.sampling = True
    draws = [net.train()(images()).trace["0"].used.detach() for _ in range(8)]
    assert any(not torch.equal(draws[0], draw) for draw in draws)
    with torch.no_grad():
        settled = [net.eval()(images()).trace["0"].used for _ in range(8)]
    assert all(torch.equal(settled[0], draw) for draw in settled)


@torch.no_grad()
def test_a_gate_may_be_forced_against_its_own_decision() -> None:
    net = network(lambda: [gated(conv())])
    for used in (0, 1):
        assert net(images(3), decisions={"0": only([used] * 3)}).trace["0"].used.flatten().tolist() == [used] * 3
    assert net(images(3)).logits.shape == (3, CLASSES)


def test_a_block_is_its_two_summands_and_an_activation() -> None:
    block = ResidualBlock(conv(), conv(1), nn.ReLU()).double()
    x = images(2)
    assert torch.equal(block(x), torch.relu(block.body(x) + block.shortcut(x)))
