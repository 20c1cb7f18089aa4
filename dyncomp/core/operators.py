"""What an operator of torch costs: a formula, nothing by convention, or unknown.

Convention: one multiply-add of a convolution, a linear layer or a matrix product is one MAC; everything else is free:
element-wise work, views, copies, reductions, normalisation, pooling, padding, resampling, sorting, random numbers and
losses. The families of free operators are rules on names, not a list of the operators that were met. An operator of
another library, and one of torch that neither has a formula nor belongs to a family (`aten._fft_r2c`,
`aten.linalg_solve`), has an unknown cost.

Formulas are those of `torch.utils.flop_counter`, which count a multiply-add as two, and those of `_MACS`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any, Final, Literal

import torch
from torch import Tensor
from torch.utils.flop_counter import flop_registry

GENERATED: Final = "dyncomp::convolution"
"""name of generated code in a profile by operator; generated code counts its MACs itself"""
GENERATED_NAME: Final = GENERATED.replace("::", ".")
"""the same in a count by operator, where names of operators have a dot"""

Kind = Literal["priced", "free"]
Formula = Callable[..., int]
"""The MACs of a call, from its arguments and its result, the keyword argument `out_val`."""

_FAMILIES = (
    # metadata, checks, and values that leave the tensor
    r"(sym_)?(size|stride|numel|storage_offset|is_\w+|dim|device|layout|item|local_scalar_dense|equal|allclose)",
    r"(functional_)?(assert|sym_constrain)_\w+|\w+_available|has_same_storage_numel|fused_sdp_choice|print|pin_memory",
    # creation and random numbers
    r"(new_)?(empty|full|zeros|ones|rand|randn|randint)(_like|_strided|_permuted)?|arange|linspace|logspace|range",
    r"eye|scalar_tensor|tri[lu](_indices)?|\w+_window|randperm|random|normal(_functional)?|uniform|bernoulli|binomial",
    r"poisson|multinomial|exponential|geometric|cauchy|log_normal|(\w+_)?dropout",
    r"sample_dirichlet|standard_gamma|complex",
    # copies and movement of elements
    r"clone|detach|lift(_fresh)?|contiguous|alias|resize(_as)?|set(_data)?|fill|zero|(\w+_)?copy|to_\w+",
    r"cat|stack|repeat(_interleave)?|tile|roll|flip|rot90|unfold(_backward)?|im2col|col2im|one_hot|block_diag",
    r"lazy_clone|chunk_cat|resize_output|diag_embed|pack_padded_sequence",
    r"(unsafe_)?(view|split|chunk)(_with_sizes)?|(\w+_)?(channel|pixel)_(un)?shuffle",
    r"(\w+_)?(index|scatter|gather|masked|select|slice|diagonal|narrow|put|take|embedding|nonzero)(_\w+)?|where",
    r"pad(_\w+)?|(constant|reflection|replication|circular)_pad(_nd|\dd)(_backward)?",
    r"(\w+_)?(upsample|grid_sampler)_\w+",
    # reductions, order, and statistics
    r"(nan)?(sum|mean|median)(_\w+)?|prod|(std|var)(_mean|_correction)?|(log)?cum(sum|prod|max|min)\w*|segment_reduce",
    r"all|any|max|min|am(ax|in)|aminmax|arg(max|min|sort)|m?sort|topk|kthvalue|mode|trace|count_nonzero|unique\w*",
    r"searchsorted|bucketize|bincount|hist(c|ogram\w*)|logsumexp|logcumsumexp|norm|linalg_vector_norm|dist|renorm|isin",
    # layers that multiply no matrix
    r"(\w+_)?(batch|layer|group|instance|rms|weight)_norm(_\w+)?|(\w+_)?softm(ax|in)(_\w+)?",
    r"(\w+_)?(max|avg|lp)_(un)?pool\dd(_\w+)?|(leaky_|r|p|c)?relu(_\w+)?|(hard|soft)\w+|glu|log_sigmoid\w*|lerp",
    r"(\w+_)?loss(\dd)?(_\w+)?|binary_cross_entropy\w*|floor_divide|linalg_cross|thnn_fused_(gru|lstm)_cell",
    r"fake_quantize_\w+|fused_moving_avg_obs\w*|(de)?quantize(_\w+)?",
)
_FREE = re.compile("|".join(f"(?:{family})" for family in _FAMILIES))


def _linear(x: Tensor, weight: Tensor, *args: Any, **kwargs: Any) -> int:
    """x (..., C) by a matrix (O, C)."""
    return x.numel() * weight.shape[0]


def _convolution(x: Tensor, weight: Tensor, *args: Any, out_val: Tensor, **kwargs: Any) -> int:
    """An output (B, O, ...) by a kernel (O, C / groups, ...)."""
    return out_val.numel() * weight.shape[1:].numel()


def _transposed_convolution(x: Tensor, weight: Tensor, *args: Any, **kwargs: Any) -> int:
    """Each number of an input (B, C, ...) by a kernel (C, O / groups, ...)."""
    return x.numel() * weight.shape[1:].numel()


def _matrix_vector(matrix: Tensor, vector: Tensor, **kwargs: Any) -> int:
    return matrix.numel()


def _added_matrix_vector(added: Tensor, matrix: Tensor, vector: Tensor, **kwargs: Any) -> int:
    return matrix.numel()


def _outer(added: Tensor, left: Tensor, right: Tensor, **kwargs: Any) -> int:
    return left.numel() * right.numel()


def _inner(left: Tensor, right: Tensor, **kwargs: Any) -> int:
    return left.numel()


def _matrices(left: Tensor, right: Tensor, **kwargs: Any) -> int:
    """(M, N) by (N, K)."""
    return left.numel() * right.shape[1]


def _added_matrices(added: Tensor, left: Tensor, right: Tensor, **kwargs: Any) -> int:
    return left.numel() * right.shape[1]


def _affine_grid(theta: Tensor, *args: Any, out_val: Tensor, **kwargs: Any) -> int:
    """Each place of a grid (B, ..., D), as a vector of D + 1 numbers, by a matrix (D, D + 1)."""
    return out_val.numel() * theta.shape[2]


def _added_batches(added: Tensor, left: Tensor, right: Tensor, **kwargs: Any) -> int:
    """(B, M, N) by (B, N, K)."""
    return left.numel() * right.shape[2]


def _attention(query: Tensor, key: Tensor, value: Tensor, *args: Any, **kwargs: Any) -> int:
    """Two products per head: (Q, D) x (D, K) and (Q, K) x (K, D'); all of (B, heads, length, width)."""
    images, heads, queries, width = query.shape
    return images * heads * queries * key.shape[2] * (width + value.shape[3])


def _multi_head_attention(query: Tensor, key: Tensor, value: Tensor, embedded: int, *args: Any, **kwargs: Any) -> int:
    """Projections of query (B, Q, D), key and value (B, K, D), the two products of attention, and the one behind it."""
    images, queries, width = query.shape
    keys = key.shape[1]
    projections = (queries + 2 * keys) * width * embedded
    return images * (projections + 2 * queries * keys * embedded + queries * embedded * embedded)


def _transformer_layer(source: Tensor, embedded: int, *args: Any, **kwargs: Any) -> int:
    """Self-attention of (B, L, D), then a linear layer (F, D) and one (D, F): arguments 14 and 16 of the operator."""
    first, second = args[12], args[14]
    attention = _multi_head_attention(source, source, source, embedded)
    return attention + source.shape[:2].numel() * int(first.numel() + second.numel())


def _recurrent_layer(x: Tensor, from_input: Tensor, from_state: Tensor, *args: Any, **kwargs: Any) -> int:
    """Each step and image of x (L, B, C) by matrices of the input and of the state."""
    return x.shape[:2].numel() * (from_input.numel() + from_state.numel())


def _recurrent_layers(x: Tensor, weights: Sequence[Tensor], *args: Any, **kwargs: Any) -> int:
    """Each step and image of x, (L, B, C) or packed (steps, C), by all matrices of all layers and directions."""
    return x.shape[:-1].numel() * sum(weight.numel() for weight in weights if weight.dim() == 2)


_MACS: Mapping[str, Formula] = {
    "aten.mv": _matrix_vector,
    "aten.addmv": _added_matrix_vector,
    "aten.addr": _outer,
    "aten.dot": _inner,
    "aten.vdot": _inner,
    "aten.affine_grid_generator": _affine_grid,
    "aten.addbmm": _added_batches,
    "aten._int_mm": _matrices,
    "aten._weight_int8pack_mm": _linear,
    "aten.mkldnn_linear": _linear,
    "aten._addmm_activation": _added_matrices,
    "aten._native_multi_head_attention": _multi_head_attention,
    "aten._transformer_encoder_layer_fwd": _transformer_layer,
    "aten._scaled_dot_product_flash_attention_for_cpu": _attention,
    "aten._scaled_dot_product_fused_attention_overrideable": _attention,
    "aten.mkldnn_rnn_layer": _recurrent_layer,
    "aten._cudnn_rnn": _recurrent_layers,
    "aten.miopen_rnn": _recurrent_layers,
    "aten.mkldnn_convolution": _convolution,
    "aten.convolution_overrideable": _convolution,
    "aten.cudnn_convolution_relu": _convolution,
    "aten.cudnn_convolution_add_relu": _convolution,
    "aten.miopen_convolution_relu": _convolution,
    "aten.miopen_convolution_add_relu": _convolution,
    "aten.miopen_convolution": _convolution,
    "aten.miopen_depthwise_convolution": _convolution,
    "aten._conv_depthwise2d": _convolution,
    "aten.conv_depthwise3d": _convolution,
    "aten.slow_conv3d_forward": _convolution,
    "aten._nnpack_spatial_convolution": _convolution,
    "aten.slow_conv_transpose2d": _transposed_convolution,
    "aten.slow_conv_transpose3d": _transposed_convolution,
    "aten.cudnn_convolution_transpose": _transposed_convolution,
    "aten.miopen_convolution_transpose": _transposed_convolution,
    "aten.slow_conv_dilated2d": _convolution,
    "aten.slow_conv_dilated3d": _convolution,
    "mkldnn._linear_pointwise": _linear,
    "mkldnn._convolution_pointwise": _convolution,
}
"""formulas of operators that torch has none for, by name"""


def formula_of(packet: Any) -> Formula | None:
    """The formula of an operator's packet, such as `torch.ops.aten.mm`; None if there is none.

    An operator in place, `aten.addmm_`, has the formula of the other.
    """
    name = str(packet)
    if name.endswith("_") and not name.endswith("__"):
        packet = _packet(name.removesuffix("_")) or packet
    if own := _MACS.get(str(packet)):
        return own
    flops = flop_registry.get(packet)
    return None if flops is None else lambda *args, **kwargs: int(flops(*args, **kwargs)) // 2


@cache
def is_free(operator: torch._ops.OpOverload) -> bool:
    """Whether an operator is free by convention: element-wise, a view, or of a free family."""
    if torch.Tag.pointwise in operator.tags or operator.is_view:
        return True
    namespace, _, name = operator._schema.name.partition("::")
    if namespace != "aten":  # an operator of another library may do anything, whatever its name
        return False
    if _FREE.fullmatch(name.strip("_")):  # `_name` is a variant of the library, `name_` the one in place
        return True
    packet = getattr(torch.ops.aten, name.removesuffix("_"), None)  # a form in place may lack the tag of the other
    forms = [] if packet is None else [getattr(packet, form) for form in packet.overloads()]
    return any(form.is_view or torch.Tag.pointwise in form.tags for form in forms)


def kind_of(name: str) -> Kind | None:
    """Whether an operator, named such as `aten.relu`, is priced or free; None if its cost is unknown.

    None, too, for a composite operator, which has no cost of its own.
    """
    if name == GENERATED_NAME:
        return "priced"
    packet = _packet(name)
    if packet is None:
        return None
    if formula_of(packet) is not None:
        return "priced"
    return "free" if any(is_free(getattr(packet, form)) for form in packet.overloads()) else None


def _packet(name: str) -> Any:
    """The packet of an operator, named such as `aten.relu`; None if there is none."""
    namespace, _, operator = name.partition(".")
    packet = getattr(getattr(torch.ops, namespace, None), operator, None)
    return packet if hasattr(packet, "overloads") else None
