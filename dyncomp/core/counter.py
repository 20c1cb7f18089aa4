"""Counts the multiply-adds of executed operators, and lists operators of unknown cost.

Convention: one multiply-add is one MAC; convolutions, linear layers and matrix products count, everything else
(normalisation, activations, pooling, copies) is free. The formulas of operators are those of
`torch.utils.flop_counter`, which counts a multiply-add as two. An operator that has no formula and is not known to be
free is listed in `uncounted`.

Generated code is no operator of torch: it runs under a counter as it does otherwise, and reports its multiply-adds to
the counter (`report`) by the same convention: a tap outside the map and an input that is known to be 0 count; padding
lanes of a vector register do not.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import cache
from typing import Any, Final, Literal, Protocol

import torch
from torch import Tensor
from torch.utils._mode_utils import no_dispatch
from torch.utils.flop_counter import flop_registry

from dyncomp.core.dispatch import DispatchMode

GENERATED: Final = "dyncomp::convolution"
"""name of generated code in a profile by operator"""
GENERATED_NAME: Final = GENERATED.replace("::", ".")
"""the same in a count by operator, where names of operators have a dot"""

EACH: Final = "each"
COUPLED: Final = "coupled"
MOVING: Final = "moving"
Part = int | range | Literal["each", "coupled", "moving"] | None
"""A part of a site, for metering.

An index: one unit; a range: several units of equal cost; `EACH`: all units, of equal cost; `COUPLED`: all pairs of a
unit and a unit that it reads, of equal cost; None: the overhead. `MOVING` is gather, scatter and selection, which is
not work of the network.
"""

Scope = tuple[str, Part] | None
"""The part of the network that an operator belongs to: (site, part), or None for what always runs."""

Kind = Literal["priced", "free"]


class Meter(Protocol):
    """Receives from a network's ops which part of which site runs."""

    def scope(self, site: str, part: Part) -> AbstractContextManager[None]:
        """Within the context, this part of the site runs."""

    def around(self) -> AbstractContextManager[None]:
        """Within the context, work belongs to the scope around the current one."""


_FREE = frozenset(
    """
    _adaptive_avg_pool2d _adaptive_avg_pool3d _assert_async _assert_scalar _batch_norm_no_update
    _batch_norm_with_update _fused_moving_avg_obs_fq_helper _local_scalar_dense _log_softmax _native_batch_norm_legit
    _native_batch_norm_legit_no_training _reshape_copy _softmax _thnn_fused_gru_cell _thnn_fused_lstm_cell _to_copy
    _unique2 _unsafe_view adaptive_max_pool2d all amax amin aminmax any arange argmax argmin avg_pool2d batch_norm
    bernoulli bincount cat clone col2im constant_pad_nd contiguous copy count_nonzero cudnn_batch_norm cumsum detach
    device dim dropout embedding empty empty_like empty_strided equal expand_copy eye fill flip floor_divide full
    full_like gather glu hardswish im2col index index_add index_copy index_fill index_put index_select is_contiguous
    is_nonzero item layout lerp lift_fresh linalg_vector_norm linspace log_sigmoid_forward logsumexp masked_fill
    masked_scatter masked_select max max_pool2d_with_indices mean min miopen_batch_norm native_batch_norm
    native_dropout native_group_norm native_layer_norm new_empty new_empty_strided new_full new_ones new_zeros nonzero
    norm normal one_hot ones ones_like pixel_shuffle pixel_unshuffle prod rand rand_like randint randn randn_like
    randperm reflection_pad2d repeat repeat_interleave resize roll scalar_tensor scatter scatter_add select_scatter
    set slice_scatter sort split split_with_sizes_copy stack std std_mean sum sym_is_contiguous sym_numel sym_size
    sym_stride topk tril triu uniform unique_consecutive unique_dim unsafe_chunk unsafe_split upsample_bilinear2d
    upsample_nearest2d var var_mean where zero zeros zeros_like
    """.split()  # noqa: SIM905 (a list of a hundred strings would fill the page)
)


def _attention_flops(query: Tensor, key: Tensor, value: Tensor, *args: Any, **kwargs: Any) -> int:
    """Two products per head: (Q, D) x (D, K) and (Q, K) x (K, D'); all of (B, heads, length, width)."""
    images, heads, queries, width = query.shape
    return 2 * images * heads * queries * key.shape[2] * (width + value.shape[3])


def _linear_flops(x: Tensor, weight: Tensor, *args: Any, **kwargs: Any) -> int:
    """x (..., C) by a matrix (O, C)."""
    return 2 * x.numel() * weight.shape[0]


def _convolution_flops(x: Tensor, weight: Tensor, *args: Any, out_val: Tensor, **kwargs: Any) -> int:
    """An output (B, O, ...) by a kernel (O, C / groups, ...)."""
    return 2 * out_val.numel() * weight.shape[1:].numel()


_OWN: dict[str, Callable[..., int]] = {
    "aten._scaled_dot_product_flash_attention_for_cpu": _attention_flops,
    "mkldnn._linear_pointwise": _linear_flops,
    "mkldnn._convolution_pointwise": _convolution_flops,
}
"""formulas of operators that torch has none for, by name"""


def _formula(packet: Any) -> Callable[..., int] | None:
    """The FLOPs formula of an operator; None if there is none."""
    return _OWN.get(str(packet)) or flop_registry.get(packet)


@cache
def is_free(operator: torch._ops.OpOverload) -> bool:
    """Whether an operator is free by convention: element-wise, a view, or one of the listed operators."""
    if torch.Tag.pointwise in operator.tags or operator.is_view:
        return True
    namespace, _, name = operator._schema.name.partition("::")
    if namespace != "aten":  # an operator of another library may do anything, whatever its name
        return False
    name = name.removesuffix("_")  # the in-place variant is free, too
    if name in _FREE:
        return True
    packet = getattr(torch.ops.aten, name, None)
    return packet is not None and any(getattr(packet, form).is_view for form in packet.overloads())


def kind_of(name: str) -> Kind | None:
    """Whether an operator, named such as `aten.relu`, is priced or free; None if its cost is unknown.

    None, too, for a composite operator, which has no cost of its own.
    """
    if name == GENERATED_NAME:  # generated code reports its MACs
        return "priced"
    namespace, _, operator = name.partition(".")
    packet = getattr(getattr(torch.ops, namespace, None), operator, None)
    if packet is None or not hasattr(packet, "overloads"):
        return None
    if _formula(packet) is not None:
        return "priced"
    return "free" if any(is_free(getattr(packet, form)) for form in packet.overloads()) else None


class MacCounter(DispatchMode):
    """While active, adds the MACs and calls of every operator to the current scope."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.by_scope: Counter[Scope] = Counter()
        self.by_operator: Counter[str] = Counter()
        self.uncounted: Counter[str] = Counter()
        self.calls: Counter[Scope] = Counter()
        self.pauses = 0
        """number of open `uncounted` contexts; nothing is counted unless it is 0"""
        self._scopes: list[Scope] = [None]

    @property
    def total(self) -> int:
        """MACs of all scopes."""
        return sum(self.by_scope.values())

    @contextmanager
    def scope(self, site: str, part: Part) -> Iterator[None]:
        """Within the context, operators are added to this part of the site."""
        self._scopes.append((site, part))
        try:
            yield
        finally:
            self._scopes.pop()

    @contextmanager
    def around(self) -> Iterator[None]:
        """Within the context, operators are added to the scope around the current one."""
        self._scopes.append(self._scopes[-2])
        try:
            yield
        finally:
            self._scopes.pop()

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if self.pauses:
            return func(*args, **kwargs)
        formula = _formula(func._overloadpacket)
        if formula is None and not is_free(func):
            with self:  # a composite operator counts as the operators that it calls
                parts = func.decompose(*args, **kwargs)
            if parts is not NotImplemented:
                return parts
        output = func(*args, **kwargs)
        name = str(func._overloadpacket)
        if formula is not None:
            self.add(name, int(formula(*args, **kwargs, out_val=output)) // 2)
            return output
        self.calls[self._scopes[-1]] += 1
        if not is_free(func):
            self.uncounted[name] += 1
        return output

    def add(self, operator: str, macs: int, calls: int = 1) -> None:
        """Add calls of an operator and their MACs to the current scope."""
        self.calls[self._scopes[-1]] += calls
        self.by_scope[self._scopes[-1]] += macs
        self.by_operator[operator] += macs


def active_counters() -> list[MacCounter]:
    """The active counters of this thread, without paused ones."""
    if not torch._C._len_torch_dispatch_stack():
        return []
    return [mode for mode in _modes() if isinstance(mode, MacCounter) and not mode.pauses]


def is_only_counted() -> bool:
    """Whether counters are the only active dispatch modes of this thread; generated code may run then."""
    return not torch._C._len_torch_dispatch_stack() or all(isinstance(mode, MacCounter) for mode in _modes())


def _modes() -> list[Any]:
    return [torch._C._get_dispatch_stack_at(level) for level in range(torch._C._len_torch_dispatch_stack())]


def report(operator: str, macs: int, calls: int = 1) -> None:
    """Add the calls and MACs of work that is no operator of torch to the active counters."""
    for counter in active_counters():
        counter.add(operator, macs, calls)


@contextmanager
def uncounted() -> Iterator[None]:
    """Within the context, active counters are paused: for trials, and for copies that later passes share.

    Where no other dispatch mode is active, operators run at the speed that they have without a counter.
    """
    counters = active_counters()
    if not counters:
        yield
        return
    for counter in counters:
        counter.pauses += 1
    try:
        with no_dispatch() if is_only_counted() else nullcontext():
            yield
    finally:
        for counter in counters:
            counter.pauses -= 1
