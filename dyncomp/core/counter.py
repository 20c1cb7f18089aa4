"""Counts the multiply-adds of the operators that really ran, and names those it cannot price.

Convention: one multiply-add is one MAC; convolutions, linear layers and matrix products count, everything else
(normalisation, activations, pooling, copies) is free by convention. The formulas of single operators are those of
`torch.utils.flop_counter`, which count two per multiply-add. An operator that is neither priced nor known to be free
is listed in `uncounted`, never passed over in silence.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

Scope = tuple[str, int | None] | None
"""Where an operator ran: (site, unit), (site, None) for a site's overhead, None for what always runs."""

_FREE = frozenset(
    """
    as_strided_ squeeze_ unsqueeze_ transpose_ t_ _adaptive_avg_pool2d _adaptive_avg_pool3d _assert_async _assert_scalar _local_scalar_dense _log_softmax _softmax
    _native_batch_norm_legit _native_batch_norm_legit_no_training _reshape_copy _to_copy _unsafe_view adaptive_max_pool2d
    all amax amin any arange argmax argmin avg_pool2d batch_norm bernoulli bincount cat clone constant_pad_nd contiguous
    copy copy_ count_nonzero cudnn_batch_norm cumsum detach dropout empty empty_like empty_strided equal expand_copy fill
    fill_ flip full full_like gather index index_add index_add_ index_copy index_copy_ index_fill index_fill_ index_put
    index_put_ index_select is_nonzero item lift_fresh logsumexp masked_scatter masked_select max max_pool2d_with_indices
    mean min miopen_batch_norm native_batch_norm native_dropout native_group_norm native_layer_norm new_empty
    new_empty_strided new_full new_ones new_zeros nonzero normal normal_ ones ones_like one_hot pixel_shuffle rand
    rand_like randint randn randn_like randperm reflection_pad2d repeat repeat_interleave roll scalar_tensor scatter
    scatter_ scatter_add scatter_add_ select_scatter set_ slice_scatter sort split_with_sizes_copy stack std std_mean sum
    topk unique_consecutive uniform uniform_ upsample_bilinear2d upsample_nearest2d var var_mean where zero_ zeros
    zeros_like _unique2 prod _fused_moving_avg_obs_fq_helper resize_ masked_fill masked_fill_ lerp lerp_ device layout
    unsafe_split unsafe_chunk split sym_size sym_stride sym_numel sym_is_contiguous is_contiguous dim
    """.split()
)


def is_free(operator: torch._ops.OpOverload) -> bool:
    """Whether an operator costs no multiply-add by convention: element-wise, a view, or one of the known free ones."""
    if torch.Tag.pointwise in operator.tags or operator.is_view:
        return True
    return operator._schema.name.split("::")[-1] in _FREE


class MacCounter(TorchDispatchMode):
    """While active, adds up the MACs of every operator under the scope that is open when it runs."""

    def __init__(self) -> None:
        super().__init__()
        self.by_scope: Counter[Scope] = Counter()
        self.by_operator: Counter[str] = Counter()
        self.uncounted: Counter[str] = Counter()
        self._scopes: list[Scope] = [None]

    @property
    def total(self) -> int:
        """All MACs seen so far."""
        return sum(self.by_scope.values())

    @contextmanager
    def scope(self, site: str, unit: int | None) -> Iterator[None]:
        """Operators that run inside are added to this unit of the site, or to its overhead (`unit=None`)."""
        self._scopes.append((site, unit))
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
        packet = func._overloadpacket
        if packet not in flop_registry and not is_free(func):
            with self:  # a composite operator counts as the operators it is made of
                parts = func.decompose(*args, **kwargs)
            if parts is not NotImplemented:
                return parts
        output = func(*args, **kwargs)
        self._add(func, flop_registry.get(packet), args, kwargs, output)
        return output

    def _add(
        self,
        func: Any,
        formula: Callable[..., int] | None,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        output: Any,
    ) -> None:
        name = str(func._overloadpacket)
        if formula is not None:
            macs = int(formula(*args, **kwargs, out_val=output)) // 2
            self.by_scope[self._scopes[-1]] += macs
            self.by_operator[name] += macs
        elif not is_free(func):
            self.uncounted[name] += 1
