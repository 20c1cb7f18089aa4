"""Types and modes: every row of docs/types-and-modes.md, for every method, as it is and deployed.

The reference is the network as it is in float64, under the decisions that the tested network took.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, nullcontext
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from dyncomp import build, deployed, list_methods, measure_costs, save
from dyncomp.conformance.deployment import stirred
from dyncomp.core import Net, Output
from dyncomp.core.decisions import random
from dyncomp.errors import CannotDeploy, InvalidValue
from dyncomp.fast import codegen
from dyncomp.fast.deploy import folded
from dyncomp.fast.tuning import by_last_ways
from dyncomp.ops.exits import Exit
from dyncomp.ops.filtered import Filtered
from dyncomp.ops.gated import Gated
from dyncomp.ops.gates import RecurrentGate
from dyncomp.ops.masked import Masked
from dyncomp.ops.planned import Planned
from tests.registered import methods

SIDE, MANY, CLASSES = 16, 7, 5
ROUNDINGS = 16
"""by so many roundings of its type, of the greatest logit's size, may a network of eight layers be off"""
KINDS = ("as it is", "deployed")
ONE_SIZE = ("dynconv",)
"""methods that decide about each pixel, whose networks see images of one size only"""

ENSEMBLES = ("branch_ensemble", "model_ensemble", "snapshot_ensemble")
"""methods whose answers are float32 where their parameters are narrower"""
MIXING = ("condconv", "dynamic_conv")
"""methods whose mixed kernels have generated code for gradients too"""

Mode = Callable[[], AbstractContextManager[object]]

every_method = pytest.mark.parametrize("method", methods())

both_kinds = pytest.mark.parametrize("kind", KINDS)


@pytest.fixture(autouse=True)
def _code_where_there_is_some() -> Iterator[None]:
    """No trial decides: code of the package's own runs wherever it can."""
    with by_last_ways():
        yield


@cache
def plain(method: str, dtype: torch.dtype) -> Net:
    """A network whose gates tell images apart, and whose normalisations change what they read."""
    if dtype != torch.float32:
        return copy.deepcopy(plain(method, torch.float32)).to(dtype)
    net = stirred(build(method, "cifar_resnet8(width=0.5)", classes=CLASSES, image_size=SIDE))
    for site in net.sites:
        halve(net, site)
    return net


@torch.no_grad()
def halve(net: Net, site: str) -> None:
    """Let half of some images use a site's unit, as far as its gate has a threshold."""
    op, output = net.sites[site], net(images(32), sparse=False)
    if isinstance(op, Exit):
        op.threshold.fill_(output.said[f"{site}.score"].quantile(0.5))
        return
    gate = getattr(op, {Gated: "gate", Planned: "policy", Masked: "masker", Filtered: "switch"}.get(type(op), ""), None)
    layers = [layer for layer in gate.modules() if isinstance(layer, nn.Linear | nn.Conv2d)] if gate else []
    bias = layers[-1].bias if layers else None
    again = isinstance(gate, RecurrentGate) and site != min(net.sites)  # they share their last layer
    if bias is None or again or (isinstance(op, Filtered) and op.switch.least().sum() > 1):  # so many are always used
        return
    for _ in range(4):  # chances near 0 and 1 say little of their logits
        chance = net(images(32), sparse=False).trace[site].probability.clamp(1e-6, 1 - 1e-6)
        middle = chance.logit().quantile(0.5, dim=0)  # (U,)
        units = 1 if isinstance(op, Gated | Masked) else len(bias)
        bias[-units:] -= middle[-units:]


@cache
def exchanged(method: str, dtype: torch.dtype) -> Net:
    return deployed(plain(method, dtype))


def network(method: str, kind: str, dtype: torch.dtype = torch.float32) -> Net:
    return plain(method, dtype) if kind == "as it is" else exchanged(method, dtype)


def images(count: int = MANY, side: int = SIDE, dtype: torch.dtype = torch.float32) -> Tensor:
    drawn = torch.randn(count, 3, side, side, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return drawn.to(dtype)


@torch.no_grad()
def reference(method: str, x: Tensor, tested: Output) -> Tensor:
    """The logits in float64 by an output's decisions."""
    forced = {site: d.map(lambda value: value.detach().double()) for site, d in tested.trace.items()}
    output = plain(method, torch.float64)(x.double(), decisions=forced)
    assert isinstance(output, Output)
    return output.logits


def near(found: Tensor, wanted: Tensor, dtype: torch.dtype, most: float = ROUNDINGS) -> None:
    assert found.shape == wanted.shape
    assert found.isfinite().all()
    if found.numel():
        allowed = most * torch.finfo(dtype).eps * float(wanted.detach().abs().max())
        torch.testing.assert_close(found.double(), wanted.double(), rtol=0, atol=allowed)


def right(method: str, net: Net, x: Tensor, mode: Mode = torch.no_grad, rounding: torch.dtype | None = None) -> Output:
    """Own decisions and random ones, both forms, with a record and without one, against the reference."""
    dtype, kept = rounding or x.dtype, x.clone()
    with mode():
        own, dense, silent = net(x), net(x, sparse=False), net(x, record=False)
        forced = random(net, len(x), torch.Generator().manual_seed(2))
        others = [net(x, sparse=sparse, decisions=forced) for sparse in (True, False)]
    for output in (own, dense, *others):
        near(output.logits, reference(method, x, output), dtype)
    near(silent.logits, own.logits, dtype)
    same_weights(method, own, x, dtype)
    assert torch.equal(x, kept) and isinstance(own, Output)
    return own


@torch.no_grad()
def same_weights(method: str, output: Output, x: Tensor, dtype: torch.dtype) -> None:
    """Where images go the reference's own way, decisions weigh as its own do; in float32 and float64 all go it."""
    wanted = plain(method, torch.float64)(x.double()).trace
    alike = (wanted.routes() == output.trace.routes()).all(dim=1)
    assert bool(alike.all()) or dtype not in (torch.float32, torch.float64)
    for site, decision in output.trace.items():
        near(decision.weight[alike], wanted[site].weight[alike], dtype, 4 * ROUNDINGS)


@every_method
@both_kinds
@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode, torch.enable_grad])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
def test_types_and_gradient_modes(method: str, kind: str, mode: Mode, dtype: torch.dtype) -> None:
    net = network(method, kind, dtype)
    assert {value.dtype for value in net.state_dict().values() if value.is_floating_point()} == {dtype}
    output = right(method, net, images(dtype=dtype), mode)
    wider = method in ENSEMBLES and dtype in (torch.bfloat16, torch.float16)
    assert output.logits.dtype == (torch.float32 if wider else dtype)


@every_method
@both_kinds
@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode, torch.enable_grad])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast(method: str, kind: str, mode: Mode, dtype: torch.dtype) -> None:
    def low() -> AbstractContextManager[object]:
        stack = ExitStack()
        stack.enter_context(mode())
        stack.enter_context(torch.autocast("cpu", dtype=dtype))
        return stack

    right(method, network(method, kind), images(), low, rounding=dtype)


@every_method
@both_kinds
def test_gradients_reach_the_images(method: str, kind: str) -> None:
    found, wanted = images().requires_grad_(), images(dtype=torch.float64).requires_grad_()
    net, other = network(method, kind), plain(method, torch.float64)
    assert any(p.requires_grad for p in net.parameters()) == (kind == "as it is")
    for sparse in (True, False):
        pairs = [(net, found), (other, wanted)]
        grads = [torch.autograd.grad(n(x, sparse=sparse).logits.square().sum(), x)[0] for n, x in pairs]
        near(grads[0], grads[1], torch.float32, 8 * ROUNDINGS)


@every_method
@both_kinds
def test_batches_of_other_sizes_one_after_another(method: str, kind: str) -> None:
    for count in (0, 1, MANY, 33, 1, 0):
        assert len(right(method, network(method, kind), images(count), torch.inference_mode).logits) == count


@every_method
@both_kinds
@pytest.mark.parametrize("side", [12, 32])
def test_images_of_another_size(method: str, kind: str, side: int) -> None:
    net, x = network(method, kind), images(side=side)
    if method in ONE_SIZE:
        with pytest.raises(
            InvalidValue, match=rf"^features of {side} x {side} pixels at \S+, whose units are 16 x 16 "
        ):
            net(x)
        return
    right(method, net, x, torch.inference_mode)
    there = copy.copy(net)
    there.costs = measure_costs(net, x[:1])
    full = {size: n.costs.full for size, n in (("built", net), ("given", there)) if n.costs is not None}
    assert (full["given"] > full["built"]) == (side > SIDE)
    with torch.no_grad(), pytest.raises(RuntimeError, match=r"^the costs are those of images .* measure_costs"):
        net(x).macs()
    with torch.no_grad():
        assert float(there(x).macs().max()) <= full["given"]


LAYOUTS: Mapping[str, Callable[[Tensor], Tensor]] = {
    "channels-last": lambda x: x.contiguous(memory_format=torch.channels_last),
    "one image many times": lambda x: x[:1].expand(len(x), -1, -1, -1),
    "every other number of a larger one": lambda x: torch.stack([x, -x], dim=-1)[..., 0],
    "a crop": lambda x: torch.nn.functional.pad(x, (3, 2, 1, 4))[:, :, 1:-4, 3:-2],
    "on its side": lambda x: x.transpose(2, 3),
    "with the other sign, not yet written": lambda x: torch.complex(x, x).conj().imag,
}


@every_method
@both_kinds
def test_images_that_lie_otherwise(method: str, kind: str) -> None:
    for lay in LAYOUTS.values():
        right(method, network(method, kind), lay(images()), torch.inference_mode)


@every_method
@both_kinds
def test_black_images(method: str, kind: str) -> None:
    right(method, network(method, kind), torch.zeros(MANY, 3, SIDE, SIDE), torch.inference_mode)


NO_IMAGES: Mapping[str, tuple[object, str]] = {
    "channels": (images()[:, :1], r"images of shape \(7, 1, 16, 16\); the network was built for \(B, 3, 16, 16\)"),
    "one image": (images()[0], r"images of shape \(3, 16, 16\); the network was built for"),
    "vectors": (images().flatten(1), r"images of shape \(7, 768\); the network was built for"),
    "bytes": (images().to(torch.uint8), "images of type uint8; give floats of the network's type"),
    "complex": (images().to(torch.complex64), "images of type complex64; give floats"),
    "array": (np.zeros((1, 3, SIDE, SIDE)), r"images are ndarray; give a tensor \(B, 3, 16, 16\)"),
}


@every_method
@both_kinds
@pytest.mark.parametrize("case", NO_IMAGES)
def test_what_are_no_images_of_the_network(method: str, kind: str, case: str) -> None:
    given, says = NO_IMAGES[case]
    with pytest.raises(InvalidValue, match=f"^{says}") as caught:
        network(method, kind)(given)
    assert "\n" not in str(caught.value)


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Grows whenever generated code runs."""
    calls: list[str] = []
    before = codegen.Code.call

    def call(code: codegen.Code, *given: Any, **more: Any) -> None:
        calls.append(type(code).__name__)
        before(code, *given, **more)

    monkeypatch.setattr(codegen.Code, "call", call)
    return calls


BY_CODE: Mapping[str, tuple[torch.dtype, Mode, bool]] = {
    "float32": (torch.float32, torch.no_grad, True),
    "float64": (torch.float64, torch.inference_mode, True),
    "bfloat16": (torch.bfloat16, torch.inference_mode, False),
    "float16": (torch.float16, torch.inference_mode, False),
    "autograd": (torch.float32, torch.enable_grad, False),
    "autocast": (torch.float32, lambda: torch.autocast("cpu", dtype=torch.bfloat16), False),
}


@pytest.mark.skipif(codegen.this_machine() is None, reason="no machine code for this machine")
@every_method
@pytest.mark.parametrize("case", BY_CODE)
def test_generated_code_runs_where_the_table_says(method: str, case: str, ran: list[str]) -> None:
    dtype, mode, by_code = BY_CODE[case]
    net, x = network(method, "deployed", dtype), images(dtype=dtype)
    by_code = by_code or (case == "autograd" and method in MIXING)
    for lay in (LAYOUTS["channels-last"], LAYOUTS["a crop"]):
        ran.clear()
        with torch.no_grad() if case == "autocast" else nullcontext(), mode():
            net(lay(x), record=False)
        assert bool(ran) == by_code


class InFloat16(nn.Module):
    """Its own code says a type."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.layers(x.half())
        return y


def test_a_network_of_a_narrow_type_that_cannot_run_in_float32_is_refused_in_one_line() -> None:
    says = (
        r"^a network in float16 is made ready for use in float32, in which it fails \(RuntimeError: .*\): let its code"
    )
    with pytest.raises(CannotDeploy, match=says) as caught:
        folded(InFloat16().half(), torch.randn(1, 3, 5, 5).half())
    assert "\n" not in str(caught.value)


class InFloat32(InFloat16):
    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.layers(x.float())
        return y


def test_a_network_that_runs_in_float32_only_is_refused_in_one_line() -> None:
    with pytest.raises(CannotDeploy, match=r"^made ready for use in bfloat16, the network fails \(RuntimeError: .*\)$"):
        folded(InFloat32().bfloat16(), torch.randn(1, 3, 5, 5).bfloat16())


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_module_of_a_narrow_type_is_folded_in_float32(dtype: torch.dtype) -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)).to(dtype).eval()
    nn.init.constant_(model[1].running_var, 0.3)  # type: ignore[arg-type]
    x = torch.randn(2, 3, 5, 5).to(dtype)
    made = folded(model, x)
    assert {parameter.dtype for parameter in made.parameters()} == {dtype}
    near(made(x), model.double()(x.double()), dtype)


def test_files_keep_no_float16(tmp_path: Path) -> None:
    with pytest.raises(InvalidValue, match=r"make them one of float32, float64, bfloat16$"):
        save(network("static", "as it is", torch.float16), tmp_path / "net.safetensors")


def test_the_gates_under_test_tell_images_apart() -> None:
    """Else no batch would be split, and the tests above would say little."""
    with torch.no_grad():
        routes = {method: plain(method, torch.float32)(images()).trace.distinct() for method in list_methods()}
    alike = {method for method, different in routes.items() if different == 1}
    assert alike <= {"static", "ladder", "distill", "fixed", *MIXING, *ENSEMBLES}


TABLE = (Path(__file__).parents[1] / "docs" / "types-and-modes.md").read_text(encoding="utf-8")


def test_the_table_names_the_methods_that_are_exceptions() -> None:
    assert set(re.findall(r"`(\w+)`", TABLE)) & set(list_methods()) == {*ONE_SIZE, *MIXING, *ENSEMBLES}


@every_method
@both_kinds
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_images_of_another_type_than_the_parameters_are_one_line(method: str, kind: str, dtype: torch.dtype) -> None:
    with pytest.raises(InvalidValue, match=rf"^images of {dtype}, and a network of torch\.float32; give images\.to"):
        network(method, kind)(images(dtype=dtype))
