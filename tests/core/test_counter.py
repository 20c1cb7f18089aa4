"""The counter: formulas spelled out, scopes, composite operators, and operators that it cannot price."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, library, nn

from dyncomp.core.counter import MacCounter
from dyncomp.core.operators import is_free


def counted(run: Callable[[], object]) -> MacCounter:
    with MacCounter() as counter:
        run()
    return counter


def ones(*shape: int) -> Tensor:
    return torch.ones(shape)


def conv(images: int, groups: int, kernel: int, stride: int) -> Callable[[], Tensor]:
    weight = ones(12, 8 // groups, kernel, kernel)
    return lambda: F.conv2d(ones(images, 8, 9, 9), weight, ones(12), stride, kernel // 2, 1, groups)


PRICED: list[tuple[str, Callable[[], object], int]] = [
    ("conv 3x3", conv(2, 1, 3, 1), 2 * 12 * 8 * 9 * 9 * 9),
    ("conv strided", conv(1, 1, 3, 2), 12 * 8 * 9 * 5 * 5),
    ("conv grouped", conv(1, 4, 3, 1), 12 * (8 // 4) * 9 * 9 * 9),
    ("conv 1x1", conv(3, 1, 1, 1), 3 * 12 * 8 * 9 * 9),
    ("conv 1d", lambda: F.conv1d(ones(2, 3, 10), ones(4, 3, 5)), 2 * 4 * 3 * 5 * 6),
    ("conv transposed", lambda: F.conv_transpose2d(ones(1, 3, 4, 4), ones(3, 5, 2, 2), stride=2), 3 * 5 * 4 * 4 * 4),
    ("linear", lambda: F.linear(ones(5, 7), ones(3, 7), ones(3)), 5 * 7 * 3),
    ("linear without bias", lambda: F.linear(ones(5, 7), ones(3, 7)), 5 * 7 * 3),
    ("linear on sequences", lambda: F.linear(ones(2, 5, 7), ones(3, 7), ones(3)), 2 * 5 * 7 * 3),
    ("bmm", lambda: torch.bmm(ones(4, 2, 3), ones(4, 3, 5)), 4 * 2 * 3 * 5),
    ("baddbmm", lambda: torch.baddbmm(ones(4, 2, 5), ones(4, 2, 3), ones(4, 3, 5)), 4 * 2 * 3 * 5),
    ("matmul", lambda: ones(4, 2, 3) @ ones(3, 5), 4 * 2 * 3 * 5),
    ("einsum", lambda: torch.einsum("bk,kop->bop", ones(4, 3), ones(3, 5, 6)), 4 * 3 * 5 * 6),
    (
        "attention",
        lambda: F.scaled_dot_product_attention(ones(2, 3, 4, 8), ones(2, 3, 5, 8), ones(2, 3, 5, 8)),
        2 * (2 * 3 * 4 * 5 * 8),
    ),
    ("lstm cell", lambda: nn.LSTMCell(4, 6)(ones(2, 4)), 2 * (4 * 6 * 4 + 4 * 6 * 6)),
    ("lstm", lambda: nn.LSTM(4, 6)(ones(5, 2, 4)), 5 * 2 * (4 * 6 * 4 + 4 * 6 * 6)),
    (
        "lstm, two layers, both directions",
        lambda: nn.LSTM(4, 6, num_layers=2, bidirectional=True, batch_first=True)(ones(2, 5, 4)),
        5 * 2 * 2 * (4 * 6 * (4 + 6) + 4 * 6 * (12 + 6)),
    ),
    ("lstm without biases", lambda: nn.LSTM(4, 6, bias=False)(ones(5, 2, 4)), 5 * 2 * (4 * 6 * 4 + 4 * 6 * 6)),
    ("gru", lambda: nn.GRU(4, 6, bidirectional=True)(ones(5, 2, 4)), 5 * 2 * 2 * (3 * 6 * 4 + 3 * 6 * 6)),
    ("rnn", lambda: nn.RNN(4, 6)(ones(5, 2, 4)), 5 * 2 * (6 * 4 + 6 * 6)),
    ("matrix by vector", lambda: ones(3, 7) @ ones(7), 3 * 7),
    ("matrices by vector", lambda: ones(2, 3, 7) @ ones(7), 2 * 3 * 7),
    ("vector by matrix", lambda: ones(7) @ ones(7, 3), 3 * 7),
    ("inner product", lambda: ones(7) @ ones(7), 7),
    ("vdot", lambda: torch.vdot(ones(7), ones(7)), 7),
    ("addmv", lambda: torch.addmv(ones(3), ones(3, 7), ones(7)), 3 * 7),
    ("addr", lambda: torch.addr(ones(3, 7), ones(3), ones(7)), 3 * 7),
    ("in place", lambda: ones(5, 3).addmm_(ones(5, 7), ones(7, 3)), 5 * 7 * 3),
    ("chain", lambda: torch.linalg.multi_dot([ones(2, 3), ones(3, 4), ones(4, 5)]), 2 * 3 * 4 + 2 * 4 * 5),
    ("tensordot", lambda: torch.tensordot(ones(2, 3, 4), ones(3, 4, 5)), 2 * 3 * 4 * 5),
    ("sum of products", lambda: torch.addbmm(ones(2, 5), ones(4, 2, 3), ones(4, 3, 5)), 4 * 2 * 3 * 5),
    ("affine grid", lambda: F.affine_grid(ones(2, 2, 3), [2, 1, 4, 5], align_corners=False), 2 * 4 * 5 * 2 * 3),
    ("self-attention", lambda: attention(ones(2, 5, 8), ones(2, 5, 8)), 2 * (4 * 5 * 8 * 8 + 2 * 5 * 5 * 8)),
    (
        "cross-attention",
        lambda: attention(ones(2, 5, 8), ones(2, 3, 8)),
        2 * (2 * 5 * 8 * 8 + 2 * 3 * 8 * 8 + 2 * 5 * 3 * 8),
    ),
    (
        "transformer layer",
        lambda: nn.TransformerEncoderLayer(8, 2, 16, batch_first=True).eval()(ones(2, 5, 8)),
        2 * (4 * 5 * 8 * 8 + 2 * 5 * 5 * 8 + 2 * 5 * 8 * 16),
    ),
]


def attention(query: Tensor, key: Tensor) -> object:
    return nn.MultiheadAttention(8, 2, batch_first=True).eval()(query, key, key, need_weights=False)


MODES = {"grad": torch.enable_grad, "no_grad": torch.no_grad, "inference": torch.inference_mode}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(("name", "run", "macs"), PRICED, ids=[name for name, _, _ in PRICED])
def test_formulas(name: str, run: Callable[[], object], macs: int, mode: str) -> None:
    with MODES[mode]():
        counter = counted(run)
    assert counter.total == macs == counter.by_operator.total()
    assert not counter.uncounted


FREE: list[Callable[[], object]] = [
    lambda: F.batch_norm(ones(2, 3, 4, 4), ones(3), ones(3), training=True),
    lambda: F.group_norm(ones(2, 4, 3, 3), 2),
    lambda: F.layer_norm(ones(2, 4), (4,)),
    lambda: F.silu(F.hardswish(F.gelu(F.relu6(ones(2, 2))))),
    lambda: F.adaptive_avg_pool2d(F.max_pool2d(ones(1, 1, 4, 4), 2, ceil_mode=True), 1),
    lambda: F.pad(F.interpolate(ones(1, 1, 4, 4), scale_factor=2.0), (1, 1, 1, 1)),
    lambda: ones(4, 4).t_().unsqueeze_(0).transpose_(1, 2).squeeze_(0).as_strided_((2, 2), (1, 2)),
    lambda: ones(4).index_copy_(0, torch.tensor([1]), ones(1)).softmax(0).topk(2),
    lambda: torch.cat([torch.stack([ones(3), ones(3)]).flatten(), torch.randn(2), torch.bernoulli(ones(3))]).sort(),
    lambda: F.dropout(ones(8), 0.5, training=True).std().item(),
    lambda: torch.linalg.vector_norm(F.embedding(torch.tensor([0]), ones(2, 3))),
    lambda: [getattr(ones(4), f"{name}_")() for name in ("abs", "neg", "exp", "sigmoid", "relu", "tanh", "sqrt")],
    lambda: [getattr(ones(4), f"{name}_")(0.5) for name in ("eq", "ge", "lt", "add", "div", "pow", "floor_divide")],
    lambda: [F.mish(ones(4), inplace=True), F.threshold(ones(4), 0.1, 0.0, inplace=True), F.gelu(ones(4))],
    lambda: [torch.linalg.cross(ones(2, 3), ones(2, 3)), ones(3).diag_embed(), torch.isin(ones(3), ones(2))],
    lambda: F.binary_cross_entropy_with_logits(ones(4), ones(4)),
    lambda: nn.ReplicationPad2d(1)(ones(1, 2, 4, 4)),
    lambda: F.pad(ones(1, 2, 4, 4), (1, 1, 1, 1), mode="circular"),
    lambda: nn.LocalResponseNorm(2)(ones(1, 4, 4, 4)),
    lambda: nn.PReLU(4)(ones(1, 4, 4, 4)),
    lambda: nn.RReLU()(ones(1, 4)),
    lambda: nn.ChannelShuffle(2)(ones(1, 4, 4, 4)),
    lambda: nn.PixelUnshuffle(2)(ones(1, 4, 4, 4)),
    lambda: [nn.Upsample(scale_factor=2, mode=mode)(ones(1, 1, 4, 4)) for mode in ("bicubic", "bilinear", "nearest")],
    lambda: nn.Upsample(scale_factor=2, mode="trilinear")(ones(1, 1, 4, 4, 4)),
    lambda: F.grid_sample(ones(1, 1, 4, 4), ones(1, 4, 4, 2), align_corners=False),
    lambda: [pool(2)(ones(1, 2, 4, 4)) for pool in (nn.AvgPool2d, nn.MaxPool2d, nn.AdaptiveMaxPool2d)],
    lambda: [nn.LPPool2d(2, 2)(ones(1, 2, 4, 4)), nn.FractionalMaxPool2d(2, output_size=2)(ones(1, 2, 4, 4))],
    lambda: nn.MaxUnpool2d(2)(*nn.MaxPool2d(2, return_indices=True)(ones(1, 2, 4, 4))),
    lambda: [nn.InstanceNorm2d(2)(ones(1, 2, 4, 4)), nn.RMSNorm(4)(ones(2, 4))],
    lambda: [
        F.cross_entropy(ones(2, 3), torch.tensor([0, 1])),
        F.mse_loss(ones(2), ones(2)),
        F.l1_loss(ones(2), ones(2)),
    ],
    lambda: [ones(4).cumsum(0), ones(4).cumprod(0), ones(4).logcumsumexp(0), ones(4).median(), ones(4).kthvalue(2)],
    lambda: [torch.histc(ones(4)), torch.bucketize(ones(4), ones(2)), torch.searchsorted(ones(3), ones(2))],
    lambda: [
        ones(2, 4).scatter_reduce(1, torch.zeros(2, 4).long(), ones(2, 4), "amax"),
        ones(4).roll(1),
        ones(4).flip(0),
    ],
    lambda: [
        torch.multinomial(ones(4), 2),
        torch.normal(ones(4), ones(4)),
        ones(4).exponential_(),
        torch.eye(3).trace(),
    ],
    lambda: [
        ones(2, 3, 4).unfold(2, 2, 1),
        F.unfold(ones(1, 2, 4, 4), 2),
        F.fold(ones(1, 8, 9), (4, 4), 2),
        ones(2, 2).tril(),
    ],
]


@pytest.mark.parametrize("run", FREE)
def test_what_multiplies_no_matrix_is_free_and_not_a_worry(run: Callable[[], object]) -> None:
    counter = counted(run)
    assert counter.total == 0
    assert not counter.uncounted


@pytest.mark.parametrize(
    ("run", "name"),
    [
        (lambda: torch.fft.fft2(ones(4, 4)), "aten._fft_c2c"),
        (lambda: torch.cdist(ones(30, 4), ones(30, 4)), "aten._euclidean_dist"),
        (lambda: torch.linalg.inv(torch.eye(3)), "aten.linalg_inv_ex"),
    ],
)
def test_an_operator_without_a_known_cost_is_named(run: Callable[[], object], name: str) -> None:
    with torch.no_grad():
        counter = counted(run)
    assert counter.uncounted[name] >= 1


def test_someones_own_operator_is_named() -> None:
    @library.custom_op("dyncomp_tests::gather", mutates_args=())
    def twice(x: Tensor) -> Tensor:
        return x * 2

    counter = counted(lambda: [twice(ones(2)), twice(ones(2))])
    assert counter.uncounted == {"dyncomp_tests.gather": 2}
    assert counter.total == 0


def test_scopes_nest_and_the_innermost_pays() -> None:
    def multiply(times: int) -> None:
        for _ in range(times):
            torch.mm(ones(1, 1), ones(1, 1))

    with MacCounter() as counter:
        multiply(1)
        with counter.scope("outer", 0):
            multiply(2)
            with counter.scope("inner", None):
                multiply(4)
            multiply(8)
        multiply(16)
    assert counter.by_scope == {None: 17, ("outer", 0): 10, ("inner", None): 4}
    assert counter.total == 31


def test_a_scope_ends_when_its_inside_fails() -> None:
    with MacCounter() as counter:
        with pytest.raises(ZeroDivisionError), counter.scope("site", 0):
            _ = 1 // 0
        torch.mm(ones(1, 2), ones(2, 1))
    assert counter.by_scope == {None: 2}


def test_in_place_forms_are_as_free_as_the_others_but_products_are_not() -> None:
    aten = torch.ops.aten
    assert is_free(aten.as_strided_.default)
    assert is_free(aten.index_fill_.int_Scalar)
    assert not is_free(aten.mm.default)
    assert not is_free(aten.addmm_.default)
