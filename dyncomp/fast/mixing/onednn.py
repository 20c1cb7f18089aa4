"""Matrix products by oneDNN, which uses the widest vector instructions of any vendor's CPU.

torch multiplies float32 matrices by MKL, which on some vendors' CPUs takes twice as long. The operator is no public
part of torch: it is tried once, and where it is missing only speed is lost.
"""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor

from dyncomp.core.counter import uncounted
from dyncomp.fast.tuning import is_watched


def linear(x: Tensor, matrix: Tensor, bias: Tensor | None = None) -> Tensor:
    """x (m, k) times the transpose of `matrix` (n, k) plus bias (n,), (m, n); `matrix` or `matrix.t()` is dense."""
    y: Tensor = torch.ops.mkldnn._linear_pointwise(x, matrix, bias, "none", [], "")
    return y


def multiplies(*tensors: Tensor) -> bool:
    """Whether `linear` can be used for these tensors at present."""
    return serves(*tensors) and _works()


def serves(*tensors: Tensor) -> bool:
    """Whether oneDNN's own operators, which have no gradient, can run on these tensors at present."""
    return (
        all(t.dtype == torch.float32 and t.device.type == "cpu" for t in tensors)
        and not torch.is_grad_enabled()
        and torch._C._get_mkldnn_enabled()
        and not is_watched()
    )


def serves_copies(x: Tensor, parameter: Tensor) -> bool:
    """As `serves`, for features x and copies of a parameter; the parameter needs a version counter."""
    return serves(x, parameter) and not parameter.is_inference() and not torch.is_autocast_enabled(x.device.type)


@cache
def _works() -> bool:
    """Whether `linear` computes the right products in this version of torch."""
    if not torch._C._has_mkldnn or not hasattr(torch.ops.mkldnn, "_linear_pointwise"):
        return False
    with uncounted(), torch.inference_mode(False), torch.no_grad():
        draw = torch.Generator().manual_seed(0)
        x, matrix, bias = (torch.randn(*shape, generator=draw) for shape in ((3, 5), (4, 5), (4,)))
        try:
            ours = [linear(x, matrix, bias), linear(x, matrix.t().contiguous().t(), bias)]
        except (RuntimeError, TypeError):
            return False
        return all(torch.allclose(one, torch.addmm(bias, x, matrix.t()), atol=1e-5) for one in ours)
