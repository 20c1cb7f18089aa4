"""Executed MACs are those of the network that is timed, and what makes them doubtful is said."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from dyncomp.bench import cell as cells
from dyncomp.bench.cell import measure
from dyncomp.bench.plan import make_plan
from dyncomp.core import Executed, Net
from dyncomp.fast import deployed
from dyncomp.store import schema
from tests.jobs import config


def measured(method: str = "skipnet") -> schema.Measured:
    cell = make_plan(config("unused", method)).cells[-1]
    net = cell.group.build(cell.method).eval()
    figures, _ = measure(net, cell)
    return figures


def said(figures: schema.Measured, words: str) -> list[str]:
    return [line for line in figures["warnings"] if words in line]


@pytest.mark.parametrize("method", ["skipnet", "fbs", "early_exit"])
def test_generated_code_is_among_the_operators(method: str) -> None:
    figures = measured(method)
    assert figures["executed_macs"] == figures["priced_macs"] == sum(figures["executed_by_operator"].values())
    assert not said(figures, "MACs")


def test_decisions_that_deployment_changes_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def shut(net: Net) -> tuple[Net, None]:
        ready = deployed(net)
        with torch.no_grad():
            for module in ready.modules():
                if isinstance(getattr(module, "head", None), nn.Linear):
                    module.head.bias.copy_(torch.tensor([1e4, -1e4])[-len(module.head.bias) :])  # type: ignore[union-attr,operator,arg-type]
        return ready, None

    monkeypatch.setattr(cells, "as_timed", shut)
    figures = measured()
    assert figures["executed_macs"] == figures["priced_macs"]
    (line,) = said(figures, "the network decides otherwise")
    assert "MACs ran by its own decisions" in line


def test_a_count_that_differs_from_the_price_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    count = cells.count_executed

    def one_more(*given: object) -> Executed:
        ran = count(*given)  # type: ignore[arg-type]
        ran.by_operator["aten.mm"] += 1
        return ran

    monkeypatch.setattr(cells, "count_executed", one_more)
    figures = measured("static")
    assert figures["executed_macs"] == figures["priced_macs"] + 1
    assert len(said(figures, "trust neither")) == 1


def test_a_network_that_cannot_be_copied_is_counted_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(net: Net) -> tuple[Net, None]:
        raise RuntimeError("this network\ncannot be copied")

    monkeypatch.setattr(cells, "as_timed", fails)
    figures = measured("static")
    assert figures["executed_macs"] == figures["priced_macs"]
    (line,) = said(figures, "deploying it fails")
    assert line.endswith("this network cannot be copied") and "\n" not in line
