"""Accuracy, price and executed operators over a split, by hand and by single images."""

from __future__ import annotations

import pytest
import torch

from dyncomp import build, count_executed_macs
from dyncomp.core import Net
from dyncomp.profile import accuracy_with_exchanged_routes, count_executed, evaluate
from tests.handmade import ALWAYS_MACS, BODY_MACS, always, bright_or_dark, gated_net, is_bright, never, stripes

BRIGHT = [True, False, False, True, True, False, True]
SPLITS = stripes(count=40)


@pytest.fixture(autouse=True)
def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several batches, the last one smaller."""
    monkeypatch.setattr("dyncomp.profile.evaluation.BATCH_SIZE", 3)


def varied(method: str) -> Net:
    """A network with random weights whose gates decide differently for different images."""
    net = build(method, "cifar_resnet8", classes=2, in_channels=1, image_size=8)
    with torch.no_grad():
        for name, parameter in net.named_parameters():
            if ".gate." in name and name.endswith("head.bias"):
                parameter.zero_()
            elif ".gate." in name:
                parameter.mul_(20)
    return net.eval()


@pytest.mark.parametrize("right", [BRIGHT, [not b for b in BRIGHT], [True] * 7])
def test_accuracy_and_price_by_hand(right: list[bool]) -> None:
    split = bright_or_dark(BRIGHT)
    object.__setattr__(split, "labels", torch.tensor(right).long())
    found = evaluate(gated_net(), split)
    assert found.labels.tolist() == [int(label) for label in right]
    assert found.predictions.tolist() == [int(b) for b in BRIGHT]
    assert found.top1 == pytest.approx(100 * sum(r == b for r, b in zip(right, BRIGHT, strict=True)) / 7)
    assert found.macs.tolist() == [ALWAYS_MACS + b * BODY_MACS for b in BRIGHT]
    assert found.trace.routes()[:, 0].tolist() == BRIGHT


@pytest.mark.parametrize("method", ["skipnet", 'skipnet(gate="ff2")', "condconv(experts=3)"])
def test_equals_one_image_at_a_time(method: str) -> None:
    net = varied(method)
    found = evaluate(net, SPLITS.test)
    alone = [(batch.labels, net(batch.images), batch.images) for batch in SPLITS.test.batches(1)]
    assert found.labels.tolist() == [int(labels) for labels, _, _ in alone]
    assert found.predictions.tolist() == [int(output.logits.argmax()) for _, output, _ in alone]
    assert found.macs.tolist() == [count_executed_macs(net, images) for _, _, images in alone]
    assert found.trace.images == len(SPLITS.test)


@pytest.mark.parametrize("method", ["static", "skipnet", 'skipnet(gate="ff2")', "condconv(experts=3)"])
def test_executed_equals_priced_over_a_split(method: str) -> None:
    net = varied(method)
    found, ran = evaluate(net, SPLITS.test), count_executed(net, SPLITS.test)
    assert ran.macs == int(found.macs.sum())
    assert not ran.uncounted
    if method.startswith("skipnet"):
        assert len(set(found.macs.tolist())) > 1  # or it would be no test of gates


def test_executed_by_operator_by_hand() -> None:
    ran = count_executed(gated_net(), bright_or_dark(BRIGHT))
    assert dict(ran.by_operator) == {"aten.convolution": 4 * BODY_MACS, "aten.addmm": 7 * ALWAYS_MACS}


@pytest.mark.parametrize("rule", [always, never])
def test_exchanging_equal_routes_changes_nothing(rule: object) -> None:
    net, split = gated_net(rule), bright_or_dark(BRIGHT)  # type: ignore[arg-type]
    found = evaluate(net, split)
    assert accuracy_with_exchanged_routes(net, split, found.trace, seed=0) == found.top1


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_gate_that_must_look_at_the_image_loses_by_exchange(seed: int) -> None:
    bright = [True] * 20 + [False] * 20
    net, split = gated_net(is_bright), bright_or_dark(bright)
    found = evaluate(net, split)
    assert found.top1 == 100
    exchanged = accuracy_with_exchanged_routes(net, split, found.trace, seed)
    order = torch.randperm(40, generator=torch.Generator().manual_seed(seed)).tolist()
    assert exchanged == pytest.approx(100 * sum(bright[i] == bright[order[i]] for i in range(40)) / 40)
    assert exchanged < 80


def test_exchange_leaves_the_network_as_it_was() -> None:
    net, split = gated_net(), bright_or_dark(BRIGHT)
    before = evaluate(net, split)
    accuracy_with_exchanged_routes(net, split, before.trace, seed=0)
    assert torch.equal(evaluate(net, split).macs, before.macs)
