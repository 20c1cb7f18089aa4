"""Gated and nested ops: two equal forms, integer prices, and a body that runs for the images that use it only."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from dyncomp.core import Net, execute_and_count, measure_costs
from dyncomp.core.decisions import all_on, least, random
from dyncomp.ops import Gated, RecurrentGate, shared_recurrence
from dyncomp.ops.rows import is_channels_last, put, take
from tests.small import C, conv, gated, images, mixed, network, only, residual

CONV = C * C * 9 * 25
SHORTCUT = C * C * 25


def flat() -> list[nn.Module]:
    return [gated(conv()), gated(conv())]


def nested() -> list[nn.Module]:
    inner = nn.Sequential(gated(conv()), mixed(conv()), nn.ReLU(), gated(mixed(conv(1))))
    return [conv(), gated(inner), gated(conv())]


def mixture_around_a_gate() -> list[nn.Module]:
    return [mixed(nn.Sequential(conv(), gated(conv())))]


def recurrent() -> list[nn.Module]:
    """The state must travel past a body that was skipped, and must not change inside it."""
    cell, head = shared_recurrence(8, 0.5)
    nn.init.normal_(head.weight, std=30)

    def gate() -> RecurrentGate:
        return RecurrentGate(C, cell, head)

    return [gated(conv(), gate()), gated(nn.Sequential(gated(conv(), gate()), conv()), gate()), gated(conv(), gate())]


NETWORKS = [flat, nested, mixture_around_a_gate, recurrent]
Make = Callable[[], list[nn.Module]]


def decisions(net: Net, count: int) -> dict[str, dict | None]:
    generator = torch.Generator().manual_seed(0)
    drawn = {f"random {i}": random(net, count, generator) for i in range(3)}
    return {"own": None, "all on": all_on(net, count), "least": least(net, count), **drawn}


@pytest.mark.parametrize("make", NETWORKS)
@torch.no_grad()
def test_both_forms_are_equal_and_the_price_is_what_ran(make: Make) -> None:
    net, x = network(make), images()
    for way, forced in decisions(net, len(x)).items():
        dense, sparse = (net(x, sparse=form, decisions=forced) for form in (False, True))
        torch.testing.assert_close(dense.logits, sparse.logits, rtol=0, atol=1e-11, msg=way)
        assert torch.equal(dense.macs(), sparse.macs()), way
        assert int(sparse.macs().sum()) == execute_and_count(net, x, forced).macs, way
        assert torch.equal(dense.trace.routes(), sparse.trace.routes()), way


@pytest.mark.parametrize("make", NETWORKS)
@torch.no_grad()
def test_the_gates_in_these_tests_decide_both_ways(make: Make) -> None:
    net = network(make)
    rates = torch.cat([d.used.mean(0) for s, d in net(images(40)).trace.items() if isinstance(net.sites[s], Gated)])
    assert float(rates.min()) < 0.9
    assert 0.0 < float(rates.mean()) < 1.0


@torch.no_grad()
def test_an_unreached_gate_leaves_the_recurrent_state_alone() -> None:
    net, x = network(recurrent), images()
    skipped = only([0] * len(x))
    for form in (False, True):
        chances = [
            net(x, sparse=form, decisions={"1": skipped, "1.block.body.0": only([g] * len(x))}).trace["2"].probability
            for g in (0, 1)
        ]
        assert torch.equal(*chances)


def test_parents_are_found() -> None:
    net = network(nested)
    assert net.parents == {
        "1": None,
        "1.block.body.0": ("1", 0),
        "1.block.body.1": ("1", 0),
        "1.block.body.3": ("1", 0),
        "1.block.body.3.block.body": ("1.block.body.3", 0),
        "2": None,
    }


def test_an_op_inside_a_gate_or_a_shortcut_has_no_parent_unit() -> None:
    block = residual(conv())
    block.shortcut = gated(conv())
    net = network(lambda: [Gated(block, nn.Sequential(mixed(conv()), gated(conv()).gate))])
    assert net.parents == dict.fromkeys(["0", "0.block.shortcut", "0.gate.0"])


@torch.no_grad()
def test_costs_by_hand() -> None:
    costs = measure_costs(network(flat), images(1))
    assert costs.always == 2 * SHORTCUT + C * 4
    assert [(site.overhead, site.units) for site in costs.sites.values()] == [(C, (CONV,))] * 2


@torch.no_grad()
def test_what_nobody_reaches_is_zero_in_the_trace() -> None:
    net, x = network(nested), images(3)
    output = net(x, decisions={"1": only([0, 0, 0])})
    for site in net.sites:
        if site.startswith("1.block"):
            assert not output.trace[site].used.any()
            assert output.trace[site].used.shape == (3, net.sites[site].units)


@pytest.mark.parametrize(("used", "batches"), [([1, 0, 1, 0, 0], [2]), ([1] * 5, [5]), ([0] * 5, [])])
@torch.no_grad()
def test_the_body_runs_on_the_used_images_only(used: list[int], batches: list[int]) -> None:
    net, seen = network(flat), []
    first = net.sites["0"]
    assert isinstance(first, Gated)
    first.block.body.register_forward_hook(lambda _, inputs, __: seen.append(inputs[0]))
    net(images(5), decisions={"0": only(used)})
    assert [len(x) for x in seen] == batches
    if batches:
        assert torch.equal(seen[0], images(5)[torch.tensor(used) > 0])


@pytest.mark.parametrize("sparse", [False, True])
@torch.no_grad()
def test_a_closed_gate_gives_the_shortcut_and_an_open_one_the_block(sparse: bool) -> None:
    net, x = network(flat), images(2)
    op = net.sites["0"]
    assert isinstance(op, Gated)
    seen: list[Tensor] = []
    op.register_forward_hook(lambda _, __, y: seen.append(y))
    net(x, sparse=sparse, decisions={"0": only([0, 1])})
    torch.testing.assert_close(seen[0][0], op.block.shortcut(x)[0], rtol=0, atol=1e-13)
    torch.testing.assert_close(seen[0][1], op.block(x)[1], rtol=0, atol=1e-13)


@pytest.mark.parametrize("sparse", [False, True])
@pytest.mark.parametrize("make", NETWORKS)
@torch.no_grad()
def test_images_are_not_changed_in_place(make: Make, sparse: bool) -> None:
    x = images()
    network(make)(x, sparse=sparse)
    assert torch.equal(x, images())


@pytest.mark.parametrize("sparse", [False, True])
@torch.no_grad()
def test_channels_last_stays_channels_last(sparse: bool) -> None:
    net, layouts = network(flat), []
    for op in net.sites.values():
        op.register_forward_hook(lambda _, __, y: layouts.append(is_channels_last(y)))
    for parameter in net.parameters():
        if parameter.dim() == 4:
            parameter.data = parameter.contiguous(memory_format=torch.channels_last)
    lasting = images().contiguous(memory_format=torch.channels_last)
    logits = net(lasting, sparse=sparse, decisions={"0": only([1, 0, 1, 0, 0, 1, 1])}).logits
    assert layouts == [True, True]
    plain = net(images(), sparse=sparse, decisions={"0": only([1, 0, 1, 0, 0, 1, 1])}).logits
    torch.testing.assert_close(logits, plain, rtol=0, atol=1e-12)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_take_and_put_keep_layout_and_original(layout: torch.memory_format) -> None:
    x, rows = images(4).contiguous(memory_format=layout), torch.tensor([3, 1])
    taken = take(x, rows)
    assert torch.equal(taken, x[[3, 1]])
    assert taken.is_contiguous(memory_format=layout)
    placed = put(x, rows, taken * 2)
    assert placed.is_contiguous(memory_format=layout)
    assert torch.equal(placed[1], x[1] * 2)
    assert torch.equal(placed[0], x[0])
    assert torch.equal(x, images(4))


@pytest.mark.parametrize("make", NETWORKS)
@torch.no_grad()
def test_no_images_and_one_image(make: Make) -> None:
    net = network(make)
    for form in (False, True):
        nothing = net(images(7)[:0], sparse=form)
        assert nothing.logits.shape == (0, 4)
        assert nothing.macs().shape == (0,)
    alone = [net(image[None]).logits for image in images(7)[:3]]
    torch.testing.assert_close(torch.cat(alone), net(images(7)[:3]).logits, rtol=0, atol=1e-12)


def test_gradients_of_the_dense_form_are_those_of_the_formula() -> None:
    net, x = network(flat).train(), images(4)
    op = net.sites["0"]
    assert isinstance(op, Gated)
    for parameter in net.parameters():
        parameter.requires_grad_()
    seen: list[Tensor] = []
    op.register_forward_hook(lambda _, __, y: seen.append(y))
    net(x)
    chance = op.gate(x)
    g = (chance > 0.5).double()[:, :, None, None]
    slope = (chance - chance.detach())[:, :, None, None]
    wanted = (g + slope) * op.block(x) + (1 - g - slope) * op.block.shortcut(x)
    grads = [torch.autograd.grad(y.square().sum(), list(op.parameters())) for y in (seen[0], wanted)]
    for ours, theirs in zip(*grads, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)
        assert bool(theirs.any())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("channels", [1, 2, 3, 8])
@pytest.mark.parametrize("first", [0, 1])
@torch.inference_mode()
def test_images_are_put_back_whatever_their_size_and_place(dtype: torch.dtype, channels: int, first: int) -> None:
    whole = torch.randn(8, channels, 3, 5).to(dtype).contiguous(memory_format=torch.channels_last)
    x, rows = whole[first:], torch.tensor([4, 0, 6])  # a batch that does not begin where its memory does
    values = take(x, rows) + 1
    wanted = x.clone()
    for row, value in zip(rows, values, strict=True):
        wanted[row] = value
    for over in (False, True):
        y = put(x, rows, values, over)
        assert torch.equal(y, wanted)
        assert is_channels_last(y) == is_channels_last(x)
        assert (y is x) == over
