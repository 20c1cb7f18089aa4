"""Gates and mixtures by class: shares and weights by hand, of networks whose decisions are known."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from dyncomp import build
from dyncomp.core import Decision, Trace
from dyncomp.profile import by_class, evaluate, mixtures
from tests.handmade import bright_or_dark, gated_net, is_bright, stripes

BRIGHT = [True, True, False, True, False, False, False, False]
LABELS = torch.tensor([0, 0, 0, 1, 1, 1, 1, 1])


def test_rates_and_information_of_a_gate_by_hand() -> None:
    net = gated_net(is_bright, 1)
    trace = evaluate(net, bright_or_dark(BRIGHT)).trace
    found = by_class(net, trace, LABELS)
    assert found.rates["0"].tolist() == [pytest.approx([2 / 3, 1 / 5])]
    assert found.p_value is not None and found.p_value > 0.1  # eight images prove nothing
    assert not math.isnan(float(found.information["0"]))


def test_a_gate_that_is_the_class_shares_all_of_its_information() -> None:
    bright = [number % 3 == 0 for number in range(300)]
    net = gated_net(is_bright, 2)
    trace = evaluate(net, bright_or_dark(bright)).trace
    found = by_class(net, trace, torch.tensor(bright).long())
    entropy = -(1 / 3) * math.log2(1 / 3) - (2 / 3) * math.log2(2 / 3)
    assert [float(found.information[site]) for site in net.sites] == pytest.approx([entropy] * 2, abs=0.004)
    assert found.p_value == 0.002


def test_units_that_always_run_are_not_tested_and_their_weights_are_told_by_class() -> None:
    net = build("condconv(experts=3)", "cifar_resnet8", classes=2, in_channels=1, image_size=8)
    test = evaluate(net, stripes(count=12).test)
    found = by_class(net, test.trace, test.labels)
    assert found.p_value is None
    assert all(bits.isnan().all() for bits in found.information.values())
    told = mixtures(net, test.trace, test.labels)
    assert [(one["site"], one["unit"]) for one in told] == [(site, unit) for site in net.sites for unit in range(3)]
    first = told[0]
    weight = test.trace[first["site"]].weight[:, 0].double().numpy()
    labels = test.labels.numpy()
    assert first["weight"] == pytest.approx(weight.mean())
    assert first["by_class"] == pytest.approx([weight[labels == label].mean() for label in (0, 1)])


def test_a_class_without_images_has_no_column() -> None:
    net = gated_net(is_bright, 1)
    trace = evaluate(net, bright_or_dark(BRIGHT)).trace
    assert torch.equal(by_class(net, trace, 2 * LABELS).rates["0"], by_class(net, trace, LABELS).rates["0"])


def test_of_many_units_some_are_tested_evenly_spread() -> None:
    net = build("dynconv", "cifar_resnet8", classes=2, in_channels=1, image_size=16)
    test = evaluate(net, stripes(count=8, size=16).test)
    draw = np.random.default_rng(0)
    decisions = {
        site: Decision(used, used, used)
        for site, op in net.sites.items()
        for used in [torch.tensor(draw.random((8, op.units)) < 0.5)]
    }
    found = by_class(net, Trace(decisions, test.trace.parents, 8), test.labels)
    for site, op in net.sites.items():
        known = (~found.information[site].isnan()).nonzero().flatten()
        assert len(known) == min(op.units, 64)
        assert known[0] == 0 and known[-1] == op.units - 1
