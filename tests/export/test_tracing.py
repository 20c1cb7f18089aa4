"""No tracer freezes one image's route in silence; the dense form may be traced, and is right for other images."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch import Tensor, nn
from torch.fx.experimental.proxy_tensor import make_fx

from benchmarks.divided import images_for
from dyncomp.core import Net
from dyncomp.core.graphs import one_route
from dyncomp.errors import CannotExport
from dyncomp.fast import deployed
from tests.export.test_graph_forms import EACH, NOTHING_DECIDED, SPECS, net_of

DECIDING = [spec for spec in SPECS if spec not in NOTHING_DECIDED]


class Logits(nn.Module):
    def __init__(self, net: Net, sparse: bool) -> None:
        super().__init__()
        self.net = net
        self.sparse = sparse

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.net(x, sparse=self.sparse, record=False).logits
        return logits


def traced(net: Net, sparse: bool, example: Tensor) -> torch.jit.ScriptModule:
    with torch.no_grad(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "`torch.jit.trace")  # deprecated
        warnings.simplefilter("ignore", torch.jit.TracerWarning)
        module: torch.jit.ScriptModule = torch.jit.trace(Logits(net, sparse), example, check_trace=False)
    return module


@pytest.mark.parametrize("spec", DECIDING)
def test_the_sparse_form_is_not_traced(spec: str) -> None:
    net = net_of(spec)
    with pytest.raises(CannotExport, match="`dyncomp export`") as caught:
        traced(net, True, images_for(net, 1, seed=1))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("spec", EACH)
def test_the_dense_form_may_be_traced(spec: str) -> None:
    net = net_of(spec)
    x = images_for(net, 24, seed=1)
    module = traced(net, False, x[:1])
    with torch.no_grad():
        wanted = net(x).logits
        assert torch.allclose(module(x), wanted, atol=1e-4)
        assert torch.allclose(torch.cat([module(image[None]) for image in x]), wanted, atol=1e-4)


def test_a_network_without_decisions_may_be_traced() -> None:
    net = net_of("static")
    x = images_for(net, 3, seed=1)
    assert torch.allclose(traced(net, True, x[:1])(x), net(x).logits, atol=1e-5)


def test_one_route_may_be_traced_knowingly() -> None:
    net = net_of("skipnet")
    x = images_for(net, 1, seed=1)
    with one_route():
        assert torch.allclose(traced(net, True, x)(x), net(x).logits, atol=1e-5)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
def test_the_old_onnx_exporter_says_what_to_use_instead() -> None:
    pytest.importorskip("onnx", reason="the extra `export` is not installed")
    net = net_of("early_exit")
    with pytest.raises(CannotExport, match="`dyncomp export`"):
        torch.onnx.export(Logits(net, True), (images_for(net, 1, seed=1),), "never-written.onnx", dynamo=False)


def test_torch_export_of_the_sparse_form_says_what_to_use_instead() -> None:
    net = net_of("skipnet")
    with pytest.raises(CannotExport, match="`dyncomp export`"):
        torch.export.export(Logits(net, True), (images_for(net, 1, seed=1),), strict=False)


@pytest.mark.parametrize("spec", ["skipnet", "condconv", "fbs", "dynconv"])
def test_strict_torch_export_of_the_sparse_form_says_what_to_use_instead(spec: str) -> None:
    net = net_of(spec)
    with pytest.raises(Exception, match="`dyncomp export`"):  # in a page of the compiler's own
        torch.export.export(Logits(net, True), (images_for(net, 1, seed=1),), strict=True)


def test_make_fx_of_the_sparse_form_says_what_to_use_instead() -> None:
    net = net_of("fbs")
    with pytest.raises(CannotExport, match="`dyncomp export`"):
        make_fx(Logits(net, True))(images_for(net, 2, seed=1))


@pytest.mark.filterwarnings("ignore:While compiling, we found certain side effects")  # of the pass's own tape
@pytest.mark.parametrize(
    "strict", [pytest.param(True, marks=pytest.mark.slow, id="strict"), pytest.param(False, id="not strict")]
)
@pytest.mark.parametrize(
    "ready", [pytest.param(False, marks=pytest.mark.slow, id="as it is"), pytest.param(True, id="deployed")]
)
@pytest.mark.parametrize("spec", ["static", "skipnet", "condconv", "fbs", "early_exit"])
def test_torch_export_of_the_dense_form_takes_any_batch(spec: str, ready: bool, strict: bool) -> None:
    net = deployed(net_of(spec)) if ready else net_of(spec)
    x, batch = images_for(net, 5, seed=1), {"x": {0: torch.export.Dim("batch", min=1)}}
    with torch.no_grad():
        program = torch.export.export(Logits(net, False), (x[:3],), strict=strict, dynamic_shapes=batch)
        assert torch.allclose(program.module()(x), net(x, sparse=False).logits, atol=1e-5)
        assert torch.allclose(program.module()(x[:1]), net(x[:1], sparse=False).logits, atol=1e-5)
