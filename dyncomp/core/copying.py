"""Deep copies of any module."""

from __future__ import annotations

import copy
from typing import TypeVar

from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

M = TypeVar("M", bound=nn.Module)


def copied(module: M) -> M:
    """A deep copy, also of a module whose hooks make a weight at each call: pruning, and older weight normalisation.

    Such a weight is no leaf of autograd's graph, and `copy.deepcopy` refuses it; the copy begins with its values.
    """
    made = [
        value
        for part in module.modules()
        for value in tree_leaves(vars(part))
        if isinstance(value, Tensor) and not value.is_leaf
    ]
    return copy.deepcopy(module, {id(value): value.detach().clone() for value in made})
