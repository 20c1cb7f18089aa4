"""Checks that a deployed module gives the same outputs as the original."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from dyncomp.errors import CannotDeploy, in_one_line

NARROW = (torch.bfloat16, torch.float16)
"""dtypes so coarse that two correct outputs may differ by as much as a correct and a wrong one"""


def widened(model: nn.Module) -> torch.dtype | None:
    """Convert a model whose floating-point tensors all have one dtype of `NARROW` to float32, in place.

    Returns that dtype, or None for any other model, which is left unchanged. The outputs are compared in float32
    because the difference of two outputs near 0 is mostly rounding: in bfloat16 no tolerance separates rounding from a
    fault.
    """
    types = {x.dtype for x in (*model.parameters(), *model.buffers()) if x.is_floating_point()}
    if len(types) != 1 or not types <= set(NARROW):
        return None
    model.float()
    return types.pop()


def answers_in_float32(run: Callable[[], Any], narrow: torch.dtype | None) -> Any:
    """Return `run()`, the model's outputs; `narrow` is what `widened` returned for the model.

    Raises CannotDeploy where a model that was converted to float32 fails.
    """
    if narrow is None:
        return run()
    try:
        return run()
    except Exception as error:  # the network's own code may raise anything
        raise CannotDeploy(
            f"a network in {_name(narrow)} is made ready for use in float32, in which it fails ({_told(error)}):"
            f" let its code follow the type of its parameters"
        ) from error


def check_same(before: Any, run: Callable[[], Any]) -> None:
    """Compare the outputs of `run()` with those `before`; both are nested structures of tensors.

    Raises CannotDeploy where `run` fails or where outputs differ by more than the rounding that deep networks
    accumulate.
    """
    try:
        pairs = list(zip(tree_leaves(before), tree_leaves(run()), strict=True))
    except Exception as error:  # the network's own code may fail in any way where a layer was
        raise CannotDeploy(f"made ready for use, the network fails ({_told(error)}): {_WHY}") from error
    for one, other in pairs:
        if isinstance(one, Tensor) and one.is_floating_point():
            allowed = 10 * torch.finfo(one.dtype).eps ** 0.5 * float(one.nan_to_num().abs().max())
            if not torch.allclose(other, one, rtol=0.0, atol=allowed, equal_nan=True):
                by = float((other - one).abs().max())
                raise CannotDeploy(f"made ready for use, the network answers otherwise (by {by:.2g}): {_WHY}")


def check_runs(run: Callable[[], Any], narrow: torch.dtype) -> None:
    """Raise CannotDeploy where `run` fails after the network was converted back to its dtype `narrow`."""
    try:
        run()
    except Exception as error:  # the network's own code, or torch, may fail in this dtype
        raise CannotDeploy(f"made ready for use in {_name(narrow)}, the network fails ({_told(error)})") from error


_WHY = (
    "it runs layers by another way than calling them; call the modules themselves, and take none out of a Sequential "
    "by its index or name"
)


def _told(error: Exception) -> str:
    return in_one_line(error, most=200)


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
