"""Whether a module that was made ready for use answers as before."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from dyncomp.errors import CannotDeploy, in_one_line

NARROW = (torch.bfloat16, torch.float16)
"""types so coarse that two right answers may differ by as much as a right and a wrong one"""


def widened(model: nn.Module) -> torch.dtype | None:
    """Give a model whose numbers are all of one narrow type float32 ones in place; the type, None for any other model.

    What the answers' differences leave of an answer near 0 is rounding: in bfloat16 no bound tells it from a fault.
    """
    types = {x.dtype for x in (*model.parameters(), *model.buffers()) if x.is_floating_point()}
    if len(types) != 1 or not types <= set(NARROW):
        return None
    model.float()
    return types.pop()


def answers_in_float32(run: Callable[[], Any], narrow: torch.dtype | None) -> Any:
    """What a model answers that `widened` has changed, or not. Raises CannotDeploy where it fails for having been."""
    if narrow is None:
        return run()
    try:
        return run()
    except Exception as error:  # whatever the network's own code meets
        raise CannotDeploy(
            f"a network in {_name(narrow)} is made ready for use in float32, in which it fails ({_told(error)}):"
            f" let its code follow the type of its parameters"
        ) from error


def check_same(before: Any, run: Callable[[], Any]) -> None:
    """Raise CannotDeploy where answers differ by more than rounding, which deep networks add up."""
    try:
        pairs = list(zip(tree_leaves(before), tree_leaves(run()), strict=True))
    except Exception as error:  # whatever the network's own code meets where a layer was
        raise CannotDeploy(f"made ready for use, the network fails ({_told(error)}): {_WHY}") from error
    for one, other in pairs:
        if isinstance(one, Tensor) and one.is_floating_point():
            allowed = 10 * torch.finfo(one.dtype).eps ** 0.5 * float(one.nan_to_num().abs().max())
            if not torch.allclose(other, one, rtol=0.0, atol=allowed, equal_nan=True):
                by = float((other - one).abs().max())
                raise CannotDeploy(f"made ready for use, the network answers otherwise (by {by:.2g}): {_WHY}")


def check_runs(run: Callable[[], Any], narrow: torch.dtype) -> None:
    """Raise CannotDeploy where a network fails that has its narrow type back."""
    try:
        run()
    except Exception as error:  # whatever the network's own code meets, and what torch cannot do in the type
        raise CannotDeploy(f"made ready for use in {_name(narrow)}, the network fails ({_told(error)})") from error


_WHY = (
    "it runs layers by another way than calling them; call the modules themselves, and take none out of a Sequential "
    "by its index or name"
)


def _told(error: Exception) -> str:
    return in_one_line(error, most=200)


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
