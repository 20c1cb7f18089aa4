"""Gate health: rates, entropy, warnings and routes of gates whose decisions are known."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from dyncomp import build
from dyncomp.profile import (
    GateHealth,
    by_class,
    distinct_routes,
    effective_routes,
    evaluate,
    gate_health,
    gate_records,
    warnings_of,
)
from tests.handmade import BODY_MACS, always, bright_or_dark, gated_net, is_bright, never, stripes

Rule = Callable[[Tensor], Tensor]


def health(rule: Rule, test: list[bool], calibration: list[bool], gates: int = 1) -> list[GateHealth]:
    net = gated_net(rule, gates)
    traces = [evaluate(net, bright_or_dark(split)).trace for split in (test, calibration)]
    return gate_health(net, *traces, by_class(net, traces[0], torch.tensor(test).long()))


@pytest.mark.parametrize("on", [1, 2, 5, 9])
def test_rate_and_entropy_by_formula(on: int) -> None:
    (gate,) = health(is_bright, [True] * on + [False] * (10 - on), [True, False, False, False])
    p = on / 10
    assert gate.rate_test == pytest.approx(p)
    assert gate.rate_calibration == pytest.approx(0.25)
    counted = -p * math.log2(p) - (1 - p) * math.log2(1 - p)
    assert gate.input_dependence == pytest.approx(min(1.0, counted + 1 / (20 * math.log(2))))  # Miller 1955
    assert gate.by_class == (0.0, 1.0)  # the class is whether an image is bright
    assert (gate.site, gate.unit, gate.unit_macs, gate.overhead_macs) == ("0", 0, BODY_MACS, 0)
    assert gate.skippable
    assert gate.stuck == ""


@pytest.mark.parametrize(("rule", "rate", "words"), [(always, 1.0, "always on"), (never, 0.0, "always off")])
def test_a_gate_that_never_varies_is_warned_of(rule: Rule, rate: float, words: str) -> None:
    found = health(rule, [True, False], [True, False], gates=2)
    assert [gate.rate_calibration for gate in found] == [rate, rate]
    assert [gate.input_dependence for gate in found] == [0.0, 0.0]
    assert warnings_of(found) == [f"gate {site} is {words} on the calibration split" for site in ("0", "1")]


def test_calibration_alone_decides_what_is_stuck() -> None:
    assert warnings_of(health(is_bright, [True, False], [True, True])) == [
        "gate 0 is always on on the calibration split"
    ]
    assert warnings_of(health(is_bright, [True, True], [True, False])) == []


def test_a_warning_names_the_unit_where_a_site_has_several() -> None:
    gate = GateHealth("site", 0, 1.0, 1.0, 0.0, 1, 1, skippable=True)
    found = [gate, replace(gate, unit=1, rate_calibration=0.5), replace(gate, site="other")]
    assert [text.split(" is ")[0] for text in warnings_of(found)] == ["gate site unit 0", "gate other"]


def test_units_that_must_run_are_never_stuck() -> None:
    net = build("condconv(experts=3)", "cifar_resnet8", classes=2, in_channels=1, image_size=8)
    test = evaluate(net, stripes(count=8).test)
    found = gate_health(net, test.trace, test.trace, by_class(net, test.trace, test.labels))
    assert {(gate.rate_test, gate.skippable) for gate in found} == {(1.0, False)}
    assert [gate.unit for gate in found] == [0, 1, 2] * len(net.sites)
    assert warnings_of(found) == []


@pytest.mark.parametrize(
    ("rule", "bright", "routes"),
    [(is_bright, [True, False, True], 2), (is_bright, [True, True], 1), (always, [True, False], 1)],
)
def test_distinct_routes(rule: Rule, bright: list[bool], routes: int) -> None:
    assert distinct_routes(evaluate(gated_net(rule, gates=2), bright_or_dark(bright)).trace) == routes


def test_a_network_without_gates_has_one_route() -> None:
    net = build("static", "cifar_resnet8", classes=2, in_channels=1, image_size=8)
    test = evaluate(net, stripes(count=8).test)
    trace = test.trace
    assert (distinct_routes(trace), effective_routes(trace)) == (1, 1.0)
    assert gate_health(net, trace, trace, by_class(net, trace, test.labels)) == []


def test_effective_routes_by_formula() -> None:
    trace = evaluate(gated_net(is_bright, gates=2), bright_or_dark([True, False, False, False])).trace
    entropy = -0.25 * math.log2(0.25) - 0.75 * math.log2(0.75)
    assert effective_routes(trace) == pytest.approx(2**entropy)


def test_a_record_of_many_units_has_their_means() -> None:
    gate = GateHealth("site", 0, 0.5, 0.5, 1.0, 1, 10, True, class_information=0.25, by_class=(0.0, 1.0))
    gates = [replace(gate, unit=unit, by_class=(unit / 10, 1.0)) for unit in range(10)]
    gates[3] = replace(gates[3], class_information=math.nan)  # was not among those that are tested
    (record,) = gate_records(gates)
    assert (record["units"], record["class_information"]) == (10, 0.25)
    assert record["by_class"] == pytest.approx([0.45, 1.0])


def test_routes_of_random_gates_are_counted_once_each() -> None:
    draws = torch.rand(64, generator=torch.Generator().manual_seed(0)) < 0.5
    assert distinct_routes(evaluate(gated_net(), bright_or_dark(draws.tolist())).trace) == 2
