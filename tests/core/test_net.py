"""Net: forms and modes, decisions from outside, copies, compilation, and what is left behind after a pass."""

from __future__ import annotations

import copy
import gc
import weakref

import pytest
import torch
from torch import Tensor, nn

from dyncomp import build
from dyncomp.core import Net, Output, count_executed_macs, measure_costs
from dyncomp.core.decisions import all_on, random
from dyncomp.ops import Mixed, Router
from dyncomp.ops.norm import with_norm
from tests.small import C, conv, gated, images, mixed, network, only

METHODS = ["skipnet", "skipnet(gate='ff2')", "condconv(experts=3)", "condconv(experts=2, mode='outputs')"]


def flat() -> list[nn.Module]:
    return [gated(conv()), mixed(conv()), gated(mixed(conv()))]


def pictures(count: int = 4) -> Tensor:
    return torch.randn(count, 3, 16, 16, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("form", [False, True])
@torch.no_grad()
def test_without_a_record_the_trace_is_empty_and_the_logits_the_same(form: bool) -> None:
    net = network(flat)
    silent, told = net(images(), sparse=form, record=False), net(images(), sparse=form)
    assert len(silent.trace) == 0
    assert list(told.trace) == list(net.sites)
    assert torch.equal(silent.logits, told.logits)
    assert silent.trace.images == len(images())


def test_training_is_dense_evaluation_sparse_and_the_sparse_form_not_for_training() -> None:
    net, forms = network(flat), []
    net.sites["0"].register_forward_hook(lambda *_: forms.append(net.tape.sparse))
    net.train()(images())
    net.eval()(images())
    net.eval()(images(), sparse=False)
    assert forms == [False, True, False]
    with pytest.raises(RuntimeError, match=r"^the sparse form is for evaluation: call net\.eval\(\) first$"):
        net.train()(images(), sparse=True)


def test_decisions_that_fit_no_site_are_refused() -> None:
    net = network(flat)
    with pytest.raises(ValueError, match=r"^decisions for '9', but the sites are 0, 1, 2, 2\.block\.body$"):
        net(images(2), decisions={"9": only([1, 1])})
    with pytest.raises(ValueError, match=r"^0: decisions of shape \(3, 1\); give \(images, units\) = \(2, 1\)$"):
        net(images(2), decisions={"0": only([1, 1, 0])})


def test_macs_need_costs() -> None:
    net = Net(nn.Sequential(gated(conv()))).double().eval()
    with pytest.raises(RuntimeError, match="no costs yet"):
        net(images(2)).macs()


@pytest.mark.parametrize("method", METHODS)
def test_a_network_can_be_copied_after_a_pass_and_the_copy_is_on_its_own(method: str) -> None:
    net = build(method, "cifar_resnet8", image_size=16).train()
    net(pictures()).logits.sum().backward()
    net.eval()
    other = copy.deepcopy(net)
    with torch.no_grad():
        before = net(pictures()).logits
        assert torch.equal(other(pictures()).logits, before)
        for parameter in other.parameters():
            parameter.zero_()
        assert torch.equal(net(pictures()).logits, before)
    forms: list[tuple[bool, bool]] = []
    site = next(iter(net.sites))
    for one in (net, other):
        one.sites[site].register_forward_hook(lambda *_: forms.append((net.tape.sparse, other.tape.sparse)))
    net(pictures())
    other(pictures())
    assert forms == [(True, False), (False, True)]  # each finds the tape of its own pass
    assert all(op is other.get_submodule(f"model.{site}") for site, op in other.sites.items())
    mixtures = [op.mixture for op in other.sites.values() if isinstance(op, Mixed)]
    assert not any(m is op.mixture for m in mixtures for op in net.sites.values() if isinstance(op, Mixed))


def test_a_passs_graph_is_freed_with_its_output() -> None:
    net = network(flat).train()
    output = net(images())
    gone = weakref.ref(output.logits)
    kept = [weakref.ref(d.used) for d in output.trace.values()]
    del output
    gc.collect()
    assert gone() is None
    assert [ref() for ref in kept] == [None] * len(kept)


@torch.no_grad()
def test_costs_hold_when_the_network_changes_its_type() -> None:
    net = build("skipnet", "cifar_resnet8", image_size=16)
    floats = net(pictures()).macs()
    doubles = net.double()(pictures().double()).macs()
    assert torch.equal(floats, doubles)
    assert measure_costs(net, pictures(1).double()) == net.costs


def test_measuring_leaves_every_modules_mode_as_it_was() -> None:
    net = network(lambda: [nn.BatchNorm2d(C), *flat()]).train()
    held = net.get_submodule("model.0").eval()  # as a stage that holds its statistics does
    assert isinstance(held, nn.BatchNorm2d)
    before = held.running_mean.clone() if held.running_mean is not None else None
    measure_costs(net, images(1))
    count_executed_macs(net, images(2))
    assert not held.training
    assert all(m.training for m in net.modules() if m is not held)
    assert before is not None
    assert torch.equal(before, held.running_mean)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["skipnet", "condconv(begin=3)", "condconv(begin=3, mode='outputs')"])
@pytest.mark.parametrize("form", [False, True])
@torch.no_grad()
def test_compiled_networks_answer_alike(method: str, form: bool) -> None:
    net = build(method, "cifar_resnet8", image_size=8).eval()
    forced = random(net, 3, torch.Generator().manual_seed(1))
    torch._dynamo.reset()
    compiled = torch.compile(net, backend="eager")
    x = pictures(3)[:, :, :8, :8]
    for decisions in (None, forced):
        ours = compiled(x, sparse=form, decisions=decisions)
        wanted = net(x, sparse=form, decisions=decisions)
        assert isinstance(ours, Output)
        torch.testing.assert_close(ours.logits, wanted.logits, rtol=1e-5, atol=1e-5)
        assert torch.equal(ours.macs(), wanted.macs())


@pytest.mark.parametrize("method", METHODS)
def test_autocast_trains_in_the_dense_form(method: str) -> None:
    net = build(method, "cifar_resnet8", image_size=16).train()
    for dtype in (torch.float32, torch.bfloat16):
        net.zero_grad()
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=dtype is torch.bfloat16):
            output = net(pictures().contiguous(memory_format=torch.channels_last))
        assert output.logits.dtype == dtype
        output.logits.float().square().sum().backward()
        assert all(p.grad is not None and bool(p.grad.isfinite().all()) for p in net.parameters())


@pytest.mark.parametrize("sizes", [(1,), (1, 1, 1)])
def test_group_norm_trains_image_by_image(sizes: tuple[int, ...]) -> None:
    net = build(
        "condconv(experts=2, norm='group', begin=1, classifier=True)", "mobilenet_v1(width=0.25)", image_size=16
    )
    net.train()
    for count in sizes:
        net.zero_grad()
        net(torch.randn(count, 3, 16, 16)).logits.square().sum().backward()
        assert all(p.grad is not None and bool(p.grad.isfinite().all()) for p in net.parameters())
    assert not any(isinstance(m, nn.BatchNorm2d) for m in net.modules())


@pytest.mark.parametrize(("channels", "groups"), [(64, 32), (48, 16), (24, 8), (16, 8), (32, 16), (7, 1), (1, 1)])
def test_group_norm_divides_the_channels(channels: int, groups: int) -> None:
    replaced = with_norm(nn.Sequential(nn.BatchNorm2d(channels)), "group")[0]
    assert isinstance(replaced, nn.GroupNorm)
    assert (replaced.num_groups, replaced.num_channels) == (groups, channels)


@torch.no_grad()
def test_forced_decisions_come_from_any_device_and_type() -> None:
    net = network(flat)
    halves = {site: d.map(lambda t: t.half()) for site, d in all_on(net, 7).items()}
    wanted = net(images(), decisions=all_on(net, 7))
    assert torch.equal(net(images(), decisions=halves).logits, wanted.logits)


def test_a_mixed_block_keeps_the_gates_inside_it() -> None:
    inner = gated(conv())
    block = nn.Sequential(conv(), inner)
    op = Mixed(block, Router(C, 2, False, 1.0), 2, "kernels")
    assert type(op.block[0]).__name__ == "ExpertConv2d"
    assert op.block[1] is inner
    assert isinstance(inner.block.body, nn.Conv2d)
