"""Cached copies of a parameter in the operand layout of a reader, remade when the parameter changes."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

from dyncomp.core.counter import uncounted
from dyncomp.fast.parameters.tracked import Tracked, numbers_of, state_of, track_parameter


@dataclass
class _Copies:
    """The copies of one parameter by purpose, and the state of the parameter when they were made."""

    state: tuple[int, ...]
    whole: Tensor
    """the parameter's numbers, kept alive so that no other tensor can get their address"""
    by_purpose: dict[Hashable, Tensor] = field(default_factory=dict)


_copies = WeakTensorKeyDictionary()
"""Copies of untracked tensors, by tensor. A tracked tensor has its copies as an attribute, since weak references would
keep torch from exchanging it (`torch.utils.swap_tensors`)."""


def copied(parameter: Tensor, purpose: Hashable, make: Callable[[Tensor], Tensor]) -> Tensor:
    """`make(parameter)`, cached by purpose while the parameter is unchanged; for an inference tensor made every time.

    A parameter of class `nn.Parameter` is tracked from then on (`tracked.py`).
    """
    track_parameter(parameter)
    state = state_of(parameter)
    copies: _Copies | None = None
    if isinstance(parameter, Tracked):
        copies = parameter.copies
    elif parameter in _copies:
        copies = _copies[parameter]
    if copies is None or copies.state != state or not state:  # changes of an inference tensor are not detected
        copies = _Copies(state, numbers_of(parameter))
        if isinstance(parameter, Tracked):
            parameter.copies = copies
        else:
            _copies[parameter] = copies
    if purpose not in copies.by_purpose:
        with uncounted(), torch.inference_mode(False), torch.no_grad():
            copies.by_purpose[purpose] = make(numbers_of(parameter))
    return copies.by_purpose[purpose]
