"""Parameters that detect writes which torch's version counter misses.

Torch's version counter counts the writes of operators into a tensor; copies of a parameter are remade when it changes.
For fused optimizers, this module increments the counter after each step. Writes through `.data`, numpy or DLPack are
not counted: once a tracked tensor has handed out its memory that way, it is compared with a copy of the numbers that it
held. The comparison is exact, and only such tensors pay for it.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import wraps
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.optimizer import Optimizer, register_optimizer_step_post_hook


class _Handed:
    """Counts in this process how often tracked tensors' memory was handed out or replaced; at 0, checks stop early."""

    times = 0
    replaced = 0


_data: Any = Tensor.data  # torch's property, which `Tracked.data` overrides


class Tracked:
    """Behaviour of both kinds of tracked tensors; `owner` is the tensor that a view was made of, None for no view."""

    owner: Any = None
    held: Tensor | None = None
    """copy of the numbers at the last check; None while the memory has not been handed out"""
    edits = 0
    """how often a check found changed numbers"""
    alias: Tensor | None = None
    """a plain tensor with the same memory and version counter"""
    copies: Any = None
    """see `copies.py`"""

    @property
    def data(self) -> Tensor:
        """See `torch.Tensor.data`."""
        _hand_out(self)
        alias: Tensor = _data.__get__(self)
        return alias

    @data.setter
    def data(self, value: Tensor) -> None:
        """See `torch.Tensor.data`."""
        _Handed.replaced += 1
        self.alias = None
        _data.__set__(self, value)

    def numpy(self, **options: Any) -> Any:
        """See `torch.Tensor.numpy`."""
        _hand_out(self)
        return Tensor.numpy(self, **options)  # type: ignore[arg-type]

    def __array__(self, dtype: Any = None) -> Any:
        _hand_out(self)
        return Tensor.__array__(self, dtype)  # type: ignore[arg-type,no-untyped-call]

    def __dlpack__(self, **options: Any) -> Any:
        _hand_out(self)
        return Tensor.__dlpack__(self, **options)  # type: ignore[arg-type]

    def plain(self) -> Tensor:
        """An untracked tensor with the same memory."""
        alias: Tensor = _data.__get__(self)
        return alias


def _alias_of(tracked: Any, made: Any) -> Any:
    """The result of an operator on a tracked tensor; tracked, too, where it shares the tensor's memory."""
    if isinstance(made, tuple | list):
        return type(made)(_alias_of(tracked, each) for each in made)
    if torch.compiler.is_compiling() or type(made) is not Tensor:
        return made
    if made.untyped_storage().data_ptr() != Tensor.untyped_storage(tracked).data_ptr():
        return made  # shares no memory
    alias = made.as_subclass(TrackedTensor)
    alias.owner = tracked if tracked.owner is None else tracked.owner
    return alias


def _aliasing(name: str) -> Callable[..., Any]:
    found = getattr(Tensor, name)
    method = found if callable(found) else found.__get__

    @wraps(method)
    def call(self: Any, *given: Any, **options: Any) -> Any:
        return _alias_of(self, method(self, *given, **options))

    return call


ALIASES = (  # noqa: SIM905 (a line each otherwise)
    "__getitem__ detach view view_as reshape reshape_as flatten unflatten ravel unbind select narrow split chunk "
    "unfold tensor_split split_with_sizes squeeze unsqueeze transpose swapaxes swapdims t permute movedim moveaxis "
    "expand expand_as as_strided diagonal contiguous to cpu"
).split()
"""methods whose result may share the memory of the tensor that they are called on"""

for _name in ALIASES:
    setattr(Tracked, _name, _aliasing(_name))
for _name in ("T", "mT", "H", "mH"):
    setattr(Tracked, _name, property(_aliasing(_name)))


class TrackedParameter(Tracked, nn.Parameter):
    """A tracked parameter; copies and unpickled copies of it are tracked, too."""

    def __deepcopy__(self, memo: dict[int, Any]) -> TrackedParameter:
        if id(self) not in memo:
            memo[id(self)] = track_parameter(nn.Parameter(copy.deepcopy(self.plain(), memo), self.requires_grad))
        found: TrackedParameter = memo[id(self)]
        return found

    def __reduce_ex__(self, protocol: Any) -> Any:
        return track_parameter, (nn.Parameter(self.plain(), self.requires_grad),)


class TrackedTensor(Tracked, Tensor):
    """A tracked buffer, or a view of a tracked tensor; copies and pickles of a view are plain tensors."""

    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    def __deepcopy__(self, memo: dict[int, Any]) -> Tensor:
        if id(self) not in memo:
            copied = copy.deepcopy(self.plain(), memo)
            memo[id(self)] = _tracked_buffer(copied) if self.owner is None else copied
        found: Tensor = memo[id(self)]
        return found

    def __reduce_ex__(self, protocol: Any) -> Any:
        return (_tracked_buffer, (self.plain(),)) if self.owner is None else self.plain().__reduce_ex__(protocol)  # type: ignore[no-untyped-call]


def track_parameter(parameter: Tensor) -> Tensor:
    """Track a tensor of class `nn.Parameter` in place; tensors of other classes are unchanged. Returns the tensor."""
    if type(parameter) is nn.Parameter:
        parameter.__class__ = TrackedParameter
    return parameter


def _tracked_buffer(buffer: Tensor) -> Tensor:
    if type(buffer) is Tensor:
        buffer.__class__ = TrackedTensor
    return buffer


def track(module: nn.Module) -> None:
    """Track the parameters and buffers of a module tree in place; tensors of subclasses of torch's stay untracked."""
    for parameter in module.parameters():
        track_parameter(parameter)
    for buffer in module.buffers():
        _tracked_buffer(buffer)


def numbers_of(tensor: Tensor) -> Tensor:
    """A detached, untracked tensor with the same memory, which keeps the memory alive but not the tensor object."""
    return tensor.plain() if isinstance(tensor, Tracked) else tensor.detach()


def times_handed_out() -> int:
    """A counter that grows whenever a tracked tensor's memory is handed out; starts at 0."""
    return _Handed.times


def times_replaced() -> int:
    """A counter that grows whenever a tracked tensor is given other memory by `.data = ...`; starts at 0."""
    return _Handed.replaced


def is_tracked(tensor: Tensor) -> bool:
    """Whether a tensor detects that its memory is handed out or replaced."""
    return isinstance(tensor, Tracked)


def versioned(tensor: Tensor) -> Tensor:
    """A plain tensor with the same memory and version counter, whose attributes are read in a third of the time."""
    if not isinstance(tensor, Tracked):
        return tensor
    alias = tensor.alias
    if alias is None:
        with torch.inference_mode(False):
            alias = tensor.alias = Tensor.detach(tensor)
    return alias


def is_handed_out(tensor: Tensor) -> bool:
    """Whether a tensor may be written without a change of its version counter."""
    return isinstance(tensor, Tracked) and tensor.held is not None


def edits_of(tensor: Tensor) -> int:
    """How often checks found a tensor, or the owner of a view, changed since its memory was handed out; checks now."""
    if not _Handed.times or not isinstance(tensor, Tracked):
        return 0
    if tensor.owner is not None:
        return edits_of(tensor.owner)
    if tensor.held is None:
        return 0
    now = tensor.plain()
    if tensor.held.shape != now.shape or tensor.held.dtype != now.dtype or not _equal(tensor.held, now):
        tensor.held = _copy(now)
        tensor.edits += 1
    return tensor.edits


def state_of(weight: Tensor | None, bias: Tensor | None = None) -> tuple[int, ...]:
    """Identifies the parameters of a layer and their present contents; empty where changes cannot be detected."""
    edits = 0
    if times_handed_out() and weight is not None:
        edits = edits_of(weight) + (0 if bias is None else edits_of(bias))
    weight, bias = None if weight is None else versioned(weight), None if bias is None else versioned(bias)
    if weight is None or weight.is_inference() or (bias is not None and bias.is_inference()):
        return ()
    if bias is None:
        return weight.data_ptr(), weight._version, edits
    return weight.data_ptr(), weight._version, bias.data_ptr(), bias._version, edits


def _hand_out(tensor: Any) -> None:
    owner = tensor if tensor.owner is None else tensor.owner
    if owner.held is None and not torch.compiler.is_compiling():
        owner.held = _copy(owner.plain())
        _Handed.times += 1


def _tell_versions(optimizer: Optimizer, args: Any, options: Any) -> None:
    """After an optimizer step, count writes of fused kernels (`fused=True`) into tracked tensors; torch does not."""
    for group in optimizer.param_groups:
        if group.get("fused"):
            torch.autograd.graph.increment_version(filter(is_tracked, group["params"]))


register_optimizer_step_post_hook(_tell_versions)


def _copy(numbers: Tensor) -> Tensor:
    with torch.inference_mode(False), torch.no_grad():
        return numbers.clone()


def _equal(one: Tensor, other: Tensor) -> bool:
    with torch.no_grad():
        return torch.equal(one, other) or bool((one.eq(other) | (one.ne(one) & other.ne(other))).all())
