"""Copies of a parameter in the order in which something reads it, made once and again when the parameter changes."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

from dyncomp.core.tracked import edits_of, numbers_of


@dataclass
class _Copies:
    """Those of one parameter, by purpose; of the state that it was in then."""

    state: tuple[int, int, int]
    whole: Tensor
    """the parameter's numbers, kept so that no others can come to lie where they do"""
    by_purpose: dict[Hashable, Tensor] = field(default_factory=dict)


_copies = WeakTensorKeyDictionary()


def copied(parameter: Tensor, purpose: Hashable, make: Callable[[Tensor], Tensor]) -> Tensor:
    """`make(parameter)`, remembered as long as the parameter lives and stays what it is; not for inference tensors."""
    state = parameter.data_ptr(), parameter._version, edits_of(parameter)
    copies: _Copies | None = _copies[parameter] if parameter in _copies else None  # noqa: SIM401 (untyped)
    if copies is None or copies.state != state:
        copies = _copies[parameter] = _Copies(state, numbers_of(parameter))
    if purpose not in copies.by_purpose:
        with torch.inference_mode(False), torch.no_grad():
            copies.by_purpose[purpose] = make(numbers_of(parameter))
    return copies.by_purpose[purpose]
