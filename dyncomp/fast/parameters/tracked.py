"""Parameters that notice when their memory is handed out, to be written where no version tells of it.

Torch counts what its operators write into a tensor, and copies of a parameter are made anew when that count changes.
What fused optimizers write is counted here, after each step. What is written through `.data`, numpy or DLPack is not: a
tracked tensor that gives its memory away so is compared, from then on, with what it held: exact, and only then with a
cost.
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
    """How often a tracked tensor's memory was handed out, or exchanged, in this process; 0 lets all look no further."""

    times = 0
    replaced = 0


_data: Any = Tensor.data  # the property that the classes below put another in front of


class Tracked:
    """What both kinds of tracked tensors do; `owner` is the tensor whose memory it is."""

    owner: Any = None
    held: Tensor | None = None
    """a copy of the numbers that it held when they were looked at last; None while nobody was given its memory"""
    edits = 0
    """how often other numbers were found"""
    alias: Tensor | None = None
    """the same memory and version as a plain tensor"""
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
        """The same numbers in the same memory, untracked."""
        alias: Tensor = _data.__get__(self)
        return alias


def _alias_of(tracked: Any, made: Any) -> Any:
    """What an operator made of a tracked tensor: where that lies in the tensor's memory, tracked too."""
    if isinstance(made, tuple | list):
        return type(made)(_alias_of(tracked, each) for each in made)
    if torch.compiler.is_compiling() or type(made) is not Tensor:
        return made
    if made.untyped_storage().data_ptr() != Tensor.untyped_storage(tracked).data_ptr():
        return made  # a copy
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
"""methods whose result may lie in the memory of the tensor that has them"""

for _name in ALIASES:
    setattr(Tracked, _name, _aliasing(_name))
for _name in ("T", "mT", "H", "mH"):
    setattr(Tracked, _name, property(_aliasing(_name)))


class TrackedParameter(Tracked, nn.Parameter):
    """A parameter that is tracked; its copies are, too."""

    def __deepcopy__(self, memo: dict[int, Any]) -> TrackedParameter:
        if id(self) not in memo:
            memo[id(self)] = track_parameter(nn.Parameter(copy.deepcopy(self.plain(), memo), self.requires_grad))
        found: TrackedParameter = memo[id(self)]
        return found

    def __reduce_ex__(self, protocol: Any) -> Any:
        return track_parameter, (nn.Parameter(self.plain(), self.requires_grad),)


class TrackedTensor(Tracked, Tensor):
    """A tracked buffer; or a view of a tracked tensor, which files and copies have as a plain one."""

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
    """Track a parameter of torch's own class; any other tensor stays what it is. Gives it back."""
    if type(parameter) is nn.Parameter:
        parameter.__class__ = TrackedParameter
    return parameter


def _tracked_buffer(buffer: Tensor) -> Tensor:
    if type(buffer) is Tensor:
        buffer.__class__ = TrackedTensor
    return buffer


def track(module: nn.Module) -> None:
    """Track the parameters and buffers of a module and of those in it; other classes than torch's own stay theirs."""
    for parameter in module.parameters():
        track_parameter(parameter)
    for buffer in module.buffers():
        _tracked_buffer(buffer)


def numbers_of(tensor: Tensor) -> Tensor:
    """A tensor's numbers in their memory, which this keeps, without a graph; the tensor itself is not kept by it."""
    return tensor.plain() if isinstance(tensor, Tracked) else tensor.detach()


def times_handed_out() -> int:
    """A number that grows whenever a tracked tensor's memory is handed out; 0 at first."""
    return _Handed.times


def times_replaced() -> int:
    """A number that grows whenever a tracked tensor is given other memory by `.data = ...`."""
    return _Handed.replaced


def is_tracked(tensor: Tensor) -> bool:
    """Whether a tensor notices when its memory is handed out or exchanged."""
    return isinstance(tensor, Tracked)


def versioned(tensor: Tensor) -> Tensor:
    """The same memory and version as a plain tensor, which tells all of itself in a third of the time."""
    if not isinstance(tensor, Tracked):
        return tensor
    alias = tensor.alias
    if alias is None:
        with torch.inference_mode(False):
            alias = tensor.alias = Tensor.detach(tensor)
    return alias


def is_handed_out(tensor: Tensor) -> bool:
    """Whether somebody may write into a tensor without its version telling."""
    return isinstance(tensor, Tracked) and tensor.held is not None


def edits_of(tensor: Tensor) -> int:
    """How often a tensor, or the one it is a view of, was found written since its memory was handed out; looks now."""
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


def _hand_out(tensor: Any) -> None:
    owner = tensor if tensor.owner is None else tensor.owner
    if owner.held is None and not torch.compiler.is_compiling():
        owner.held = _copy(owner.plain())
        _Handed.times += 1


def _tell_versions(optimizer: Optimizer, args: Any, options: Any) -> None:
    """After a step: count what fused kernels (`fused=True`) wrote into tracked tensors, which torch does not."""
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
