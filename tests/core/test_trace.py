"""Traces, tapes and prices, by hand on a small example with a site inside another."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from dyncomp.core import Costs, Decision, SiteCost, Trace, price
from dyncomp.core.op import hard_decision
from dyncomp.core.tape import Tape

PARENTS = {"outer": None, "inner": ("outer", 1)}
COSTS = Costs(
    always=1000,
    sites={"outer": SiteCost(5, (100, 200), None), "inner": SiteCost(7, (10, 20, 40), ("outer", 1))},
    image_shape=(3, 8, 8),
    uncounted=(),
)
OUTER = [[1, 1], [1, 0], [0, 1], [0, 0]]
INNER = [[1, 0, 1], [1, 1, 1], [0, 0, 0], [0, 1, 0]]
# always + overhead + units; the inner site only where the outer's second unit is used
BY_HAND = [1000 + 5 + 300 + 7 + 50, 1000 + 5 + 100, 1000 + 5 + 200 + 7, 1000 + 5]


def decision(used: list[list[int]]) -> Decision:
    value = torch.tensor(used, dtype=torch.float64)
    return Decision(value, value * 0.5, value * 0.25)


@pytest.fixture
def trace() -> Trace:
    return Trace({"outer": decision(OUTER), "inner": decision(INNER)}, PARENTS, 4)


def test_the_price_by_hand(trace: Trace) -> None:
    assert price(COSTS, trace).tolist() == BY_HAND
    assert COSTS.full == 1000 + 5 + 300 + 7 + 70
    assert COSTS.overhead == 12
    assert COSTS.without_overhead == 1370


def test_the_gradient_of_the_price_is_what_the_unit_costs() -> None:
    outer = torch.tensor(OUTER, dtype=torch.float64, requires_grad=True)
    inner = torch.tensor(INNER, dtype=torch.float64, requires_grad=True)
    trace = Trace({"outer": Decision(outer, outer, outer), "inner": Decision(inner, inner, inner)}, PARENTS, 4)
    price(COSTS, trace).sum().backward()
    assert outer.grad is not None
    assert inner.grad is not None
    assert outer.grad[:, 0].tolist() == [100] * 4
    inside = [7 + 50, 7 + 70, 7 + 0, 7 + 20]  # what opening the unit lets happen inside it
    assert outer.grad[:, 1].tolist() == [200 + cost for cost in inside]
    assert inner.grad.tolist() == [[10, 20, 40], [0, 0, 0], [10, 20, 40], [0, 0, 0]]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_straight_through_decisions_are_exact_and_pass_the_gradient(dtype: torch.dtype) -> None:
    chance = torch.linspace(0.003, 0.997, 101, dtype=dtype)[:, None].requires_grad_()
    settled = hard_decision(chance, sampling=False)
    assert torch.equal(settled.used.detach(), (chance > 0.5).to(dtype))  # not 0.996 for 1
    (slope,) = torch.autograd.grad(settled.used.sum(), chance)
    assert torch.equal(slope, torch.ones_like(chance))


def test_sampled_decisions_follow_their_chance_and_shape_the_output_without_gradient() -> None:
    torch.manual_seed(0)
    chance = torch.full((4000, 1), 0.3, requires_grad=True)
    drawn = hard_decision(chance, sampling=True)
    assert float(drawn.weight.mean()) == pytest.approx(0.3, abs=0.03)
    assert not drawn.weight.requires_grad
    assert drawn.used.requires_grad
    assert drawn.probability is chance


def test_executed_and_routes_leave_out_what_is_not_reached(trace: Trace) -> None:
    assert trace.executed("outer").tolist() == OUTER
    assert trace.executed("inner").tolist() == [[1, 0, 1], [0, 0, 0], [0, 0, 0], [0, 0, 0]]
    assert trace.routes().int().tolist() == [[1, 1, 1, 0, 1], [1, 0, 0, 0, 0], [0, 1, 0, 0, 0], [0, 0, 0, 0, 0]]


def test_select_join_and_to(trace: Trace) -> None:
    order = torch.tensor([2, 0, 3, 1])
    assert price(COSTS, trace.select(order)).tolist() == [BY_HAND[i] for i in order]
    halves = [trace.select(torch.tensor([0, 1])), trace.select(torch.tensor([2, 3]))]
    joined = Trace.join(halves)
    assert joined.images == 4
    assert all(torch.equal(joined[site].weight, trace[site].weight) for site in trace)
    graph = Trace({"outer": decision(OUTER).map(lambda t: t.requires_grad_())}, {"outer": None}, 4)
    assert not graph.to("cpu")["outer"].used.requires_grad


def test_an_empty_trace_has_routes_but_no_price_when_there_are_sites() -> None:
    empty = Trace({}, {}, 3)
    assert empty.routes().shape == (3, 0)
    assert price(Costs(11, {}, (3, 8, 8), ()), empty).tolist() == [11, 11, 11]
    with pytest.raises(ValueError, match="no decision for inner: run the network with record=True"):
        price(COSTS, empty)


def test_forced_decisions_follow_the_rows() -> None:
    forced = decision(OUTER)
    own = decision([[0, 0]] * 3).map(Tensor.float)
    tape = Tape(4, sparse=True, recording=True, forced={"site": forced})
    with tape.restricted_to(torch.tensor([0, 2, 3])):
        settled = tape.settle("site", own)
    assert settled.used.tolist() == [[1, 1], [0, 1], [0, 0]]
    assert settled.used.dtype == torch.float32
    assert tape.decisions["site"].used.tolist() == [[1, 1], [0, 0], [0, 1], [0, 0]]  # zeros where nobody came


def test_rows_narrow_within_rows() -> None:
    tape = Tape(6, sparse=True, recording=True)
    with tape.restricted_to(torch.tensor([1, 3, 5])):
        with tape.restricted_to(torch.tensor([0, 2])):
            assert tape.rows is not None
            assert tape.rows.tolist() == [1, 5]
        assert tape.rows is not None
        assert tape.rows.tolist() == [1, 3, 5]
    assert tape.rows is None


def test_memory_is_kept_per_image_and_ends_with_the_pass() -> None:
    tape = Tape(3, sparse=True, recording=True)
    tape.remember("state", torch.tensor([[1.0], [2.0], [3.0]]))
    with tape.restricted_to(torch.tensor([1])):
        assert tape.recall("state", torch.ones(1, 1)).tolist() == [[2.0]]
        tape.remember("state", torch.tensor([[9.0]]))
    assert tape.recall("state", torch.ones(3, 1)).tolist() == [[1.0], [9.0], [3.0]]
    tape = Tape(3, sparse=True, recording=True)
    assert tape.recall("state", torch.ones(3, 1)).tolist() == [[0.0]] * 3


def test_an_image_that_is_there_for_nothing_keeps_its_memory() -> None:
    tape = Tape(3, sparse=False, recording=True)
    tape.remember("state", torch.tensor([[1.0], [2.0], [3.0]]))
    with tape.within(torch.tensor([1.0, 0.0, 1.0])), tape.within(torch.tensor([1.0, 1.0, 0.0])):
        tape.remember("state", torch.tensor([[7.0], [8.0], [9.0]]))
    assert tape.recall("state", torch.ones(3, 1)).tolist() == [[7.0], [2.0], [3.0]]


def test_a_lean_trace_costs_and_runs_the_same(trace: Trace) -> None:
    lean = trace.lean()
    assert {d.used.dtype for d in lean.values()} == {torch.bool}
    assert price(COSTS, lean).tolist() == BY_HAND
    assert torch.equal(lean.routes(), trace.routes())
    assert torch.equal(lean["outer"].weight, trace["outer"].weight)  # more than a route
    same = torch.tensor(OUTER).double()
    routes_alone = Trace({"outer": Decision(same, same, same)}, {"outer": None}, 4).lean()["outer"]
    assert routes_alone.weight is routes_alone.used
