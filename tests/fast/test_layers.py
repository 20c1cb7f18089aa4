"""Layers made ready for use: the same as those they were made of, whatever changes around them."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import prune
from torch.profiler import ProfilerActivity, profile

from dyncomp.core.backbone import ResidualBlock
from dyncomp.core.counter import MacCounter
from dyncomp.core.operators import GENERATED, kind_of
from dyncomp.fast import codegen, disabled
from dyncomp.fast.layers import compiled as loaded
from dyncomp.fast.layers.convolution import FusedSequential, TunedConv2d, with_tuned_layers
from dyncomp.fast.layers.residual_body import GeneratedBody
from dyncomp.fast.tuning import in_turn
from dyncomp.ops.gated import Gated
from dyncomp.ops.rows import take
from dyncomp.ops.skipping import SkipForm, skip_sparse

CONVOLUTIONS = {
    "3x3": {"kernel_size": 3, "padding": 1},
    "1x1": {"kernel_size": 1},
    "depthwise": {"kernel_size": 3, "padding": 1, "groups": 6},
    "groups": {"kernel_size": 3, "padding": 1, "groups": 2},
    "groups of 1x1": {"kernel_size": 1, "groups": 3, "stride": 2},
    "reflecting": {"kernel_size": 3, "padding": 1, "padding_mode": "reflect"},
    "same": {"kernel_size": 3, "padding": "same"},
    "without bias": {"kernel_size": 3, "bias": False},
}
needs_code = pytest.mark.skipif(codegen.this_machine() is None, reason="no machine code for this machine")


def features(images: int, side: int = 9) -> Tensor:
    return torch.randn(images, 6, side, side, dtype=torch.float64).contiguous(memory_format=torch.channels_last)


def ready(layer: nn.Module) -> nn.Module:
    made = copy.deepcopy(layer).eval().requires_grad_(False)
    return with_tuned_layers(made)


@pytest.mark.parametrize("images", [0, 1, 5])
@pytest.mark.parametrize("name", CONVOLUTIONS)
@torch.inference_mode()
def test_a_ready_convolution_with_and_without_relu_is_the_convolution(name: str, images: int) -> None:
    with torch.inference_mode(False):
        layers = nn.Sequential(nn.Conv2d(6, 6, **CONVOLUTIONS[name]), nn.ReLU()).double()
        made = ready(layers)
    assert type(made) is FusedSequential and type(made[0]) is TunedConv2d
    x = features(images)
    with in_turn():  # both forms
        for _ in range(2):
            torch.testing.assert_close(made(x), layers(x), rtol=0, atol=1e-12)
            torch.testing.assert_close(made[0](x), layers[0](x), rtol=0, atol=1e-12)
            torch.testing.assert_close(made(x.contiguous()), layers(x), rtol=0, atol=1e-12)


@needs_code
@torch.no_grad()
def test_a_ready_convolution_follows_its_parameters() -> None:
    layer = ready(nn.Conv2d(6, 4, 3).double())
    x = features(3)
    assert isinstance(layer, TunedConv2d)
    before = layer._directly(x, relu=False)
    torch.testing.assert_close(before, layer._by_torch(x, relu=False), rtol=0, atol=1e-12)
    layer.weight.mul_(2)
    layer.bias.mul_(2)
    torch.testing.assert_close(layer._directly(x, relu=False), 2 * before)
    layer.load_state_dict({name: value / 2 for name, value in layer.state_dict().items()})
    torch.testing.assert_close(layer._directly(x, relu=False), before)
    layer.weight, layer.bias = nn.Parameter(3 * layer.weight), nn.Parameter(3 * layer.bias)
    torch.testing.assert_close(layer._directly(x, relu=False), 3 * before)


@needs_code
@torch.no_grad()
def test_parameters_are_told_apart_though_they_come_and_go() -> None:
    layer, x = ready(nn.Conv2d(6, 4, 3, bias=False).double()), features(3)
    assert isinstance(layer, TunedConv2d)
    before = layer._directly(x, relu=False)
    for _ in range(3):  # the first one's memory is free again for the third
        layer.weight = nn.Parameter(2 * layer.weight)
    torch.testing.assert_close(layer._directly(x, relu=False), 8 * before)
    for _ in range(3):
        layer.weight.data = layer.weight.data / 2
    torch.testing.assert_close(layer._directly(x, relu=False), before)


@torch.no_grad()
def test_a_weight_that_is_no_parameter_is_left_to_torch() -> None:
    plain = nn.Sequential(nn.Conv2d(6, 4, 3), nn.ReLU()).eval()
    made = ready(plain)
    prune.random_unstructured(made[0], "weight", 0.5)
    x = features(2).float()
    torch.testing.assert_close(made(x), made[0]._by_torch(x, relu=True))
    assert type(ready(nn.Sequential(prune.random_unstructured(plain[0], "weight", 0.5)))[0]) is nn.Conv2d


@needs_code
@torch.no_grad()
def test_code_is_made_for_a_few_sizes_of_images_and_others_go_to_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    layer = ready(nn.Conv2d(6, 4, 3).double())
    assert isinstance(layer, TunedConv2d)
    monkeypatch.setattr(loaded, "SIZES", 2)
    able = [layer.compiled_for(features(1, side).shape[1:]) is not None for side in (5, 6, 7, 5)]
    assert able == [True, True, False, True]


@needs_code
@torch.no_grad()
def test_a_ready_convolution_can_be_copied() -> None:
    layer, x = ready(nn.Conv2d(6, 4, 3).double()), features(3)
    before = layer._directly(x, relu=False)
    torch.testing.assert_close(copy.deepcopy(layer)._directly(x, relu=False), before)
    assert set(layer.state_dict()) == {"weight", "bias"}


@torch.no_grad()
def test_generated_code_reports_to_a_counter() -> None:
    layer, x = ready(nn.Conv2d(6, 4, 3)), features(2).float()
    with MacCounter() as counter:
        layer._directly(x, relu=True)
    assert counter.total == counter.by_operator["dyncomp.convolution"] == 2 * 4 * 49 * 6 * 9
    assert not counter.uncounted


def test_gradients_and_types_get_torchs_convolution(monkeypatch: pytest.MonkeyPatch) -> None:
    layer, x = ready(nn.Conv2d(6, 4, 3)), features(2).float()

    def never(*given: object) -> Tensor:
        raise AssertionError("ran")

    monkeypatch.setattr(TunedConv2d, "_directly", never)
    assert layer(x.requires_grad_()).requires_grad
    with torch.no_grad():
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert layer(x).dtype == torch.bfloat16
        with disabled():
            assert layer.double()(x.double()).dtype == torch.float64


@torch.no_grad()
def test_whoever_listens_hears_every_layer() -> None:
    layers = ready(nn.Sequential(nn.Conv2d(6, 4, 3), nn.ReLU()))
    heard = []
    layers[0].register_forward_hook(lambda module, given, y: heard.append(float(y.min())))
    y = layers(features(2).float())
    assert heard[0] < 0 <= float(y.min())


def block(activation: nn.Module, groups: int = 1) -> ResidualBlock:
    first, last = (nn.Conv2d(6, 6, 3, padding=1, groups=groups) for _ in range(2))
    body = nn.Sequential(first, nn.ReLU(), nn.Sequential(nn.Conv2d(6, 6, 1)), last)
    return ResidualBlock(body, nn.Identity(), activation).double()


@needs_code
@pytest.mark.parametrize("activation", [nn.ReLU(), nn.Identity()])
@torch.inference_mode()
def test_a_body_in_one_go_is_the_body_at_the_rows_asked_for(activation: nn.Module) -> None:
    with torch.inference_mode(False):
        plain = block(activation)
        made = ready(plain)
    body = GeneratedBody.of(made)
    assert body is not None and body.relus == (True, False, type(activation) is nn.ReLU)
    with in_turn():
        codes = [body.form(features(5), features(5), 3, made.body) for _ in range(2)]
    code = next(code for code in codes if code is not None)
    x, shortcut = features(5), features(5)
    wanted = activation(plain.body(x) + shortcut)
    torch.testing.assert_close(code.run(x, shortcut, code.new(x)), wanted, rtol=0, atol=1e-12)
    rows = torch.tensor([[0, 4], [0, 1], [0, 2]]).select(1, 1)  # with gaps between them, as `nonzero` gives them
    y = x.clone(memory_format=torch.channels_last)
    code.run(y, y, y, rows)
    expected = x.clone()
    expected[rows] = activation(plain.body(take(x, rows)) + take(x, rows))
    torch.testing.assert_close(y, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    "body",
    [
        nn.Conv2d(6, 6, 1),
        nn.Sequential(nn.Conv2d(6, 6, 1), nn.SiLU(), nn.Conv2d(6, 6, 1)),
        nn.Sequential(nn.ReLU(), nn.Conv2d(6, 6, 1), nn.Conv2d(6, 6, 1)),
        nn.Sequential(nn.Conv2d(6, 6, 1), nn.Conv2d(6, 6, 1), nn.ReLU()),
    ],
)
def test_other_bodies_run_layer_by_layer(body: nn.Module) -> None:
    assert GeneratedBody.of(ResidualBlock(ready(nn.Sequential(body))[0], nn.Identity(), nn.ReLU())) is None


@needs_code
@torch.inference_mode()
def test_no_code_runs_on_what_it_is_not_for() -> None:
    with torch.inference_mode(False):
        made = ready(block(nn.ReLU()))
    body = GeneratedBody.of(made)
    assert body is not None

    def codes(x: Tensor, shortcut: Tensor) -> list[object]:
        with in_turn():
            return [body.form(x, shortcut, len(x), made.body) for _ in range(2)]

    assert any(codes(features(2), features(2)))
    assert not any(codes(features(0), features(0)))
    assert not any(codes(features(2).contiguous(), features(2)))
    assert not any(codes(features(2), features(2).contiguous()))
    assert not any(codes(features(2), features(2).float()))
    assert not any(codes(features(2), features(2, side=8)))
    assert not any(codes(features(2), features(3)))
    for part in (made.body, made.body[1], made.activation):
        handle = part.register_forward_hook(lambda *given: None)
        assert not any(codes(features(2), features(2)))
        handle.remove()
    assert any(codes(features(2), features(2)))
    made.body[3].double().weight.data = made.body[3].weight.data.float()
    assert not any(codes(features(2), features(2)))


@needs_code
@torch.no_grad()
def test_a_profiler_of_operators_sees_a_convolution_with_a_price() -> None:
    layer, x = ready(nn.Conv2d(6, 4, 3).double()), features(3)
    assert isinstance(layer, TunedConv2d)
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        layer._directly(x, relu=False)
    assert GENERATED in {event.name for event in profiler.events() or ()}
    assert kind_of(GENERATED.replace("::", ".")) == "priced"


@needs_code
@torch.no_grad()
def test_code_of_our_own_can_be_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    layer, x = ready(nn.Conv2d(6, 4, 3).double()), features(3)
    assert isinstance(layer, TunedConv2d)
    ran = []
    monkeypatch.setattr(TunedConv2d, "_directly", lambda layer, x, relu: ran.append(relu) or layer._by_torch(x, relu))
    with in_turn():
        with disabled():
            wanted = [layer(x) for _ in range(2)]
            assert not ran
        torch.testing.assert_close(layer(x), wanted[0])
        layer(x)
    assert ran == [False]


@needs_code
@torch.no_grad()
def test_convolutions_in_groups_have_code() -> None:
    for name in ("groups", "groups of 1x1"):
        layer = ready(nn.Conv2d(6, 6, **CONVOLUTIONS[name]).double())
        assert isinstance(layer, TunedConv2d)
        x = features(3)
        torch.testing.assert_close(layer._directly(x, relu=True), layer(x).relu(), rtol=0, atol=1e-12)


@needs_code
@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize("form", ["output", "residual"])
@pytest.mark.parametrize("shortcut", [nn.Identity(), nn.Conv2d(6, 6, 1)])
@pytest.mark.parametrize("alone", [None, False, True])
def test_skipped_bodies_in_one_go_are_those_layer_by_layer(
    mode: type, form: SkipForm, shortcut: nn.Module, alone: bool | None, groups: int
) -> None:
    plain = block(nn.ReLU(inplace=True), groups)
    plain.shortcut = copy.deepcopy(shortcut).double()
    made = ready(plain)
    made.ready, made.reads_alone = GeneratedBody.of(made), alone
    op, x = Gated(made, nn.Identity(), form), features(5)
    for rows in (torch.tensor([0, 3, 4]), torch.tensor([2])):
        used = torch.zeros(5, dtype=torch.float64).index_fill(0, rows, 1)
        with torch.no_grad():
            plain.activation.inplace = False
            passed = plain.shortcut(x)
            skipped = passed if form == "output" else passed.relu()
            wanted = torch.where(used[:, None, None, None] > 0, plain(x), skipped)
        with mode(), in_turn():
            for _ in range(3):  # both ways
                given = x.clone(memory_format=torch.channels_last)
                y = skip_sparse(op, 0, made, given, rows, form)
                torch.testing.assert_close(y, wanted, rtol=0, atol=1e-12)
                if alone is not True or mode is torch.no_grad:
                    torch.testing.assert_close(given, x, rtol=0, atol=0)
