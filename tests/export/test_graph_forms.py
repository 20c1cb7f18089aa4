"""The forms that fit into a graph equal the network, in float64, on images of different routes."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

import dyncomp
from benchmarks.divided import divided, images_for
from dyncomp.core import Decision, Net, Op
from dyncomp.core.graphs import in_graph
from dyncomp.errors import CannotExport
from dyncomp.export import graph_of
from dyncomp.fast.deploy import plainly_folded
from dyncomp.ops import Certainty, Exit, Gated, RecurrentGate, shared_recurrence
from dyncomp.ops.columns import by_columns
from dyncomp.ops.kernels import Geometry, looped
from tests.registered import marks_of
from tests.small import C, conv, images, network, residual

CASCADE = "model_ensemble(cascade=True)"
SPECS = [*dyncomp.list_methods(), CASCADE]
EACH = [pytest.param(spec, marks=marks_of(spec)) for spec in SPECS]
NOTHING_DECIDED = {"static", "ladder", "distill", "model_ensemble", "branch_ensemble", "snapshot_ensemble"}
ROUTED = [spec for spec in SPECS if spec not in NOTHING_DECIDED]
BACKBONE = "cifar_resnet8(width=0.25)"
SHAPE = {"classes": 5, "in_channels": 1, "image_size": 16}


def net_of(spec: str) -> Net:
    return divided(spec, BACKBONE, **SHAPE)


@torch.no_grad()
def in_form(net: Net, form: str, x: Tensor) -> Tensor:
    with in_graph("routed" if form == "routed" else "dense"):
        logits: Tensor = net(x, sparse=False, record=False).logits
    return logits


@pytest.mark.parametrize("spec", EACH)
def test_graph_forms_equal_the_network(spec: str) -> None:
    net = net_of(spec).double()
    x, ready = images_for(net, 12, seed=1), plainly_folded(net)
    with torch.no_grad():
        output = net(x)
    assert torch.allclose(in_form(ready, "dense", x), output.logits, rtol=0, atol=1e-12)
    if spec in ROUTED:
        one_by_one = torch.cat([in_form(ready, "routed", image[None]) for image in x])
        assert torch.allclose(one_by_one, output.logits, rtol=0, atol=1e-12)
        alike = spec == "fixed" or not any(op.takes_one_image for op in net.sites.values())
        assert output.trace.distinct() > 1 or alike


@pytest.mark.parametrize("spec", EACH)
def test_the_dense_graph_takes_any_batch(spec: str) -> None:
    net = net_of(spec)
    x, program = images_for(net, 5, seed=1), graph_of(net, routed=False).program.module()
    with torch.no_grad():
        wanted = net(x).logits
    assert torch.allclose(program(x), wanted, rtol=0, atol=1e-5)
    assert torch.allclose(program(x[:1]), wanted[:1], rtol=0, atol=1e-5)


@pytest.mark.parametrize("spec", sorted(NOTHING_DECIDED))
def test_what_cannot_be_routed_says_so(spec: str) -> None:
    with pytest.raises(CannotExport, match="export it --dense") as caught:
        graph_of(net_of(spec), routed=True)
    assert "\n" not in str(caught.value)


class Doubled(Op):
    """Of a plugin: x, or twice x, by its mean; without a form of its own for graphs."""

    units = 1

    def decide(self, x: Tensor) -> Decision:
        used = (x.mean(dim=(1, 2, 3)) > 0).to(x)[:, None]
        return Decision(used, used, used)

    def dense(self, x: Tensor, decision: Decision) -> Tensor:
        return x + x * decision.used[:, :, None, None]

    sparse = dense

    def unit_parts(self) -> tuple[nn.Module | None, ...]:
        return (None,)

    def least(self) -> Tensor:
        return torch.zeros(1)

    def forced(self, used: Tensor, weight: Tensor) -> Decision:
        return Decision(used, used, used)


def test_an_op_without_a_form_for_graphs_says_so() -> None:
    net = network(lambda: [Doubled()])
    net.costs = dyncomp.measure_costs(net, images(1))
    with pytest.raises(CannotExport, match=r"Doubled has no form with branches in the graph; export it --dense"):
        graph_of(net, routed=True)
    x = images(6)
    assert torch.allclose(graph_of(net, routed=False).program.module()(x), net(x).logits, atol=1e-6)


class Halving(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = (x.mean(dim=(1, 2, 3)) > 0).to(x)[:, None]
        return y


@pytest.mark.parametrize("method", ["fbs", "lkam"])
@pytest.mark.parametrize("backbone", ["mobilenet_v1(width=0.25)", "vgg11(width=0.125)"])
def test_chains_of_switched_filters_have_a_routed_form(method: str, backbone: str) -> None:
    """Depthwise convolutions in between, a linear layer behind, a switch that reads the channels that there are."""
    net = divided(method, backbone, classes=5, in_channels=3, image_size=32).double()
    x = images_for(net, 4, seed=1)
    with torch.no_grad():
        wanted = net(x).logits
    found = torch.cat([in_form(net, "routed", image[None]) for image in x])
    assert torch.allclose(found, wanted, rtol=0, atol=1e-12)
    if backbone.startswith("vgg"):  # the other takes its time
        program = graph_of(net, routed=True).program.module()
        assert torch.allclose(torch.cat([program(image[None]) for image in x]), wanted, rtol=0, atol=1e-12)


@pytest.mark.parametrize("outer_first", [True, False])
def test_what_gates_remember_inside_a_branch_is_no_silent_zero(outer_first: bool) -> None:
    """A recurrent gate in the rest of an exit goes on from those before it; none outside goes on from it."""
    cell, head = shared_recurrence(10, 0.5)

    def gate() -> Gated:
        return Gated(residual(conv()), RecurrentGate(C, cell, head))

    inner = Gated(residual(nn.Sequential(gate(), conv())), Halving())
    net = network(lambda: [gate(), inner] if outer_first else [inner, gate()])
    x = images(6)
    with torch.no_grad():
        wanted = net(x).logits
    if outer_first:
        found = torch.cat([in_form(net, "routed", image[None]) for image in x])
        assert torch.allclose(found, wanted, rtol=0, atol=1e-12)
    else:
        with pytest.raises(CannotExport, match="remembered inside a branch"):
            torch.cat([in_form(net, "routed", image[None]) for image in x])


@pytest.mark.parametrize(
    ("kernel", "geometry"),
    [
        (3, Geometry((2, 2), (1, 1), (1, 1), 1)),
        (1, Geometry((1, 1), (0, 0), (1, 1), 1)),
        (3, Geometry((1, 2), (2, 1), (2, 1), 6)),
        (2, Geometry((1, 1), (0, 1), (1, 1), 2)),
    ],
    ids=str,
)
def test_a_convolution_by_columns_is_a_convolution(kernel: int, geometry: Geometry) -> None:
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(3, 6, 7, 8, generator=draw, dtype=torch.float64)
    kernels = torch.randn(3, 12, 6 // geometry.groups, kernel, kernel, generator=draw, dtype=torch.float64)
    bias = torch.randn(3, 12, generator=draw, dtype=torch.float64)
    found = by_columns(x, kernels, bias, geometry)
    assert torch.allclose(found, looped(x, kernels, bias, geometry), rtol=0, atol=1e-12)
    assert torch.allclose(by_columns(x, kernels, None, geometry), looped(x, kernels, None, geometry), atol=1e-12)


def test_the_network_given_stays_as_it_is() -> None:
    net = net_of("skipnet")
    before = copy.deepcopy(net.state_dict())
    modules = [*net.modules()]
    graph_of(net, routed=True)
    assert [*net.modules()] == modules
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


def test_a_network_of_machine_code_is_not_exported() -> None:
    with pytest.raises(CannotExport, match="export the one that `deployed` was given"):
        graph_of(dyncomp.deployed(net_of("static")), routed=False)


def test_exits_of_several_scales_have_a_routed_form() -> None:
    net = divided("early_exit", "msdnet", classes=5, in_channels=3, image_size=32)
    x = images_for(net, 4, seed=1)
    with torch.no_grad():
        wanted = net(x).logits
    found = torch.cat([in_form(net, "routed", image[None]) for image in x])
    assert torch.allclose(found, wanted, atol=1e-4)
    assert isinstance(next(iter(net.sites.values())), Exit)
    assert isinstance(next(iter(net.sites.values())).judge, Certainty)  # type: ignore[attr-defined]
