"""The form that learns by machine code of our own: against a plain convolution per image, and where it may be used."""

from __future__ import annotations

from contextlib import nullcontext

import pytest
import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.checkpoint import checkpoint

from dyncomp.conformance import Case
from dyncomp.core import Net, Stage
from dyncomp.errors import CannotAttach
from dyncomp.fast import codegen, disabled
from dyncomp.fast.mixing import generated_training as learning
from dyncomp.fast.mixing.generated_training import GeneratedTrainingForm, of_training
from dyncomp.fast.tuning import by_last_ways
from dyncomp.ops.experts import ExpertConv2d
from dyncomp.ops.mixture import Mix, Mixing
from dyncomp.registry import METHODS
from tests.ops.test_experts import GEOMETRIES, by_hand, expert_conv, features, weights

pytestmark = pytest.mark.skipif(codegen.this_machine() is None, reason="no machine code for this machine")

ABLE = ["1x1", "1x1 without bias", "3x3", "3x3 without bias", "depthwise", "dilated"]


@pytest.fixture(autouse=True)
def small_ones_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(learning, "_WORTH", 0)


def laid_out(x: Tensor) -> Tensor:
    return x.contiguous(memory_format=torch.channels_last)


def given(geometry: str, batch: int = 5, side: int = 7) -> tuple[ExpertConv2d, Tensor, Mixing]:
    """A layer, features and what mixes, all of which learn."""
    layer, x = expert_conv(geometry), laid_out(features(geometry, batch, side)).requires_grad_()
    layer.mixture.use(Mix(weights(batch).requires_grad_()))
    return layer, x, layer.mixing(layer.mixture.mix)


def form_of(layer: ExpertConv2d, x: Tensor, mixing: Mixing) -> GeneratedTrainingForm:
    form = of_training(x, mixing, layer.geometry)
    assert form is not None
    return form


@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_it_serves_where_both_ways_are_convolutions_of_steps_of_one(geometry: str) -> None:
    assert (of_training(*given(geometry)[1:], expert_conv(geometry).geometry) is not None) == (geometry in ABLE)


@pytest.mark.parametrize("batch", [1, 5, 14])
@pytest.mark.parametrize("geometry", ABLE)
def test_values_and_gradients_are_a_plain_convolutions(geometry: str, batch: int) -> None:
    layer, x, mixing = given(geometry, batch)
    y, wanted = form_of(layer, x, mixing)(x, mixing), by_hand(layer, geometry, x, mixing.weight)
    torch.testing.assert_close(y, wanted, rtol=0, atol=1e-10)
    assert y.is_contiguous(memory_format=torch.channels_last)
    learns = [x, mixing.weight, *layer.parameters()]
    seen = torch.randn_like(wanted)
    for lying in (seen, laid_out(seen), seen[:, :, :1, :1].expand_as(seen)):
        ours = torch.autograd.grad(y, learns, lying, retain_graph=True)
        exact = torch.autograd.grad(wanted, learns, lying, retain_graph=True)
        for one, other in zip(ours, exact, strict=True):
            torch.testing.assert_close(one, other, rtol=0, atol=1e-9)


@pytest.mark.parametrize("geometry", ["1x1", "3x3", "depthwise"])
def test_it_passes_gradcheck(geometry: str) -> None:
    layer, x, mixing = given(geometry, 3, side=3)
    form = form_of(layer, x, mixing)

    def run(x: Tensor, weight: Tensor, experts: Tensor) -> Tensor:
        return form(x, Mixing(weight, experts, layer.kernel_shape))

    assert torch.autograd.gradcheck(run, (x, mixing.weight, layer.weight), fast_mode=True)


@pytest.mark.parametrize("held", ["x", "weight", "experts"])
@pytest.mark.parametrize("geometry", ["1x1", "3x3", "depthwise"])
def test_what_is_held_gets_no_gradient_and_the_rest_the_same(geometry: str, held: str) -> None:
    layer, x, mixing = given(geometry)
    learns = {"x": x, "weight": mixing.weight, "experts": layer.weight}
    form = form_of(layer, x, mixing)
    plain = Mixing(mixing.weight, layer.weight, layer.kernel_shape)
    full = dict(zip(learns, torch.autograd.grad(form(x, plain).square().sum(), list(learns.values())), strict=True))
    learns[held].requires_grad_(False)
    y = form(x, plain)
    rest = [name for name in learns if name != held]
    for name, one in zip(rest, torch.autograd.grad(y.square().sum(), [learns[n] for n in rest]), strict=True):
        torch.testing.assert_close(one, full[name], rtol=0, atol=1e-9)


def test_features_that_lie_otherwise_and_shares_of_another_type_are_taken() -> None:
    layer, x, mixing = given("3x3")
    form, wanted = form_of(layer, x, mixing), by_hand(layer, "3x3", x, mixing.weight)
    torch.testing.assert_close(form(x.contiguous(), mixing), wanted, rtol=0, atol=1e-10)
    gaps = torch.cat([x, x], dim=1)[:, : x.shape[1]]
    torch.testing.assert_close(form(gaps, mixing), wanted, rtol=0, atol=1e-10)
    coarse = Mixing(mixing.weight.detach().float().requires_grad_(), layer.weight, layer.kernel_shape)
    form(x, coarse).sum().backward()
    assert coarse.weight.grad is not None
    assert coarse.weight.grad.dtype == torch.float32


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> list[GeneratedTrainingForm]:
    """The forms that gave gradients of kernels, in order."""
    seen, of_kernels = [], GeneratedTrainingForm.of_kernels

    def noted(self: GeneratedTrainingForm, *given: Tensor) -> tuple[Tensor, Tensor]:
        seen.append(self)
        return of_kernels(self, *given)

    monkeypatch.setattr(GeneratedTrainingForm, "of_kernels", noted)
    return seen


def test_a_layer_learns_the_same_as_by_torch(ran: list[GeneratedTrainingForm]) -> None:
    trained, steps = [], 4
    for way in (nullcontext, disabled):
        layer, x, _ = given("3x3")
        optimizer = torch.optim.SGD(layer.parameters(), lr=0.01)
        for _ in range(steps):
            optimizer.zero_grad()
            with by_last_ways(), way():
                layer(x).square().mean().backward()
            optimizer.step()
        trained.append([parameter.detach() for parameter in layer.parameters()])
    assert len(ran) == steps
    for one, other in zip(*trained, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-12)


def learned(case: Case, net: Net, stage: Stage) -> dict[str, Tensor]:
    """The gradients of a stage's loss, by name."""
    torch.manual_seed(0)
    net.zero_grad(set_to_none=True)
    stage.loss(net(laid_out(case.images())), case.labels(), 1.0).backward()
    return {name: p.grad for name, p in net.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("name", [entry.name for entry in METHODS.entries()])
def test_every_method_gets_the_gradients_that_it_gets_by_torch(name: str, ran: list[GeneratedTrainingForm]) -> None:
    case = Case(METHODS.create(name), "cifar_resnet8")
    try:
        net = case.fresh().train()
    except CannotAttach:
        return
    stage = case.method.stages()[-1]
    sources = {name: case.build(source.method) for name, source in case.method.sources().items()}
    case.method.inherit(net, sources, lambda: [(case.images(), case.labels())])
    mixed = [layer for layer in net.modules() if isinstance(layer, ExpertConv2d)]
    for layer in mixed:
        layer.mixture.mode = "kernels"
    with by_last_ways():
        ours = learned(case, net, stage)
        steps = len(ran)
        with disabled():
            theirs = learned(case, net, stage)
    assert len(ran) == steps
    assert (steps > 0) == (len(mixed) > 0)
    assert ours.keys() == theirs.keys()
    for key, gradient in ours.items():
        torch.testing.assert_close(gradient, theirs[key], rtol=1e-8, atol=1e-9, msg=key)


def test_what_is_saved_may_come_back_lying_otherwise() -> None:
    layer, x, mixing = given("3x3")
    form, learns = form_of(layer, x, mixing), [x, mixing.weight, layer.weight]
    wanted = torch.autograd.grad(form(x, mixing).square().sum(), learns, retain_graph=True)
    with saved_tensors_hooks(lambda t: t.detach().contiguous(), lambda t: t):
        y = form(x, mixing)
    for one, other in zip(torch.autograd.grad(y.square().sum(), learns), wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-9)


def test_signs_that_are_still_to_be_turned_are_seen() -> None:
    layer, x, mixing = given("3x3")
    form = form_of(layer, x, mixing)
    negative = torch._neg_view(x.detach())
    assert of_training(negative, mixing, layer.geometry) is None
    grad = torch.randn_like(form(x, mixing))
    for one, other in zip(
        torch.autograd.grad(form(x, mixing), (x, layer.weight), torch._neg_view(grad)),
        torch.autograd.grad(form(x, mixing), (x, layer.weight), -grad),
        strict=True,
    ):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-9)


def test_a_layer_is_tried_inside_a_checkpoint_too() -> None:
    layer, x, _ = given("3x3", batch=3, side=11)  # of a shape that nobody has chosen for
    layer.mixture.use(Mix(weights(3).requires_grad_()))
    checkpoint(layer, x, use_reentrant=False).square().sum().backward()
    (wanted,) = torch.autograd.grad(by_hand(layer, "3x3", x, layer.mixture.mix.weight).square().sum(), x)
    torch.testing.assert_close(x.grad, wanted, rtol=0, atol=1e-9)


def test_weights_of_other_images_are_an_error() -> None:
    layer, x, _ = given("3x3")
    layer.mixture.use(Mix(weights(4)))
    with pytest.raises(ValueError, match="4 images' mixing weights for 5 images"):
        layer(x)


def test_experts_that_change_before_the_backward_pass_are_an_error() -> None:
    layer, x, mixing = given("3x3")
    y = form_of(layer, x, mixing)(x, mixing)
    with torch.no_grad():
        layer.weight.mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()


def test_a_gradient_has_no_gradient() -> None:
    layer, x, mixing = given("3x3")
    (gradient,) = torch.autograd.grad(form_of(layer, x, mixing)(x, mixing).square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.sum().backward()


def test_it_is_left_out_where_it_cannot_run_or_does_not_pay(monkeypatch: pytest.MonkeyPatch) -> None:
    layer, x, mixing = given("3x3")
    form_of(layer, x, mixing)
    assert of_training(x.detach().contiguous(), mixing, layer.geometry) is None
    assert of_training(x.float(), mixing, layer.geometry) is None
    with torch.no_grad():
        assert of_training(x, mixing, layer.geometry) is None
    with disabled():
        assert of_training(x, mixing, layer.geometry) is None
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert of_training(x, mixing, layer.geometry) is None
    monkeypatch.setattr(learning, "_WORTH", 1_000_000)
    assert of_training(x, mixing, layer.geometry) is None


def test_a_single_channel_lies_both_ways_and_is_left_to_torch() -> None:
    conv = nn.Conv2d(1, 4, 3, padding=1)
    layer = ExpertConv2d(conv, expert_conv("grey").mixture)
    layer.mixture.use(Mix(weights(5).float()))
    x = torch.randn(5, 1, 7, 7)
    assert of_training(x, layer.mixing(layer.mixture.mix), layer.geometry) is None
