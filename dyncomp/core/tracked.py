"""Parameters that notice when their memory is handed out, to be written where no version tells of it.

Torch counts what its operators write into a tensor, and copies of a parameter are made anew when that count changes.
What fused optimizers write is counted here, after each step. What is written through `.data`, numpy or DLPack is not: a
tracked tensor that gives its memory away so is compared, from then on, with what it held: exact, and only then with a
cost.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.optimizer import Optimizer, register_optimizer_step_post_hook


class _Handed:
    """How often a tracked tensor's memory was handed out, or exchanged, in this process; 0 lets all look no further."""

    times = 0
    replaced = 0


_data: Any = Tensor.data  # the property that the classes below put another in front of


class _Tracked:
    """What both kinds of tracked tensors do; `owner` is the tensor whose memory it is."""

    owner: Any = None
    held: Tensor | None = None
    """a copy of the numbers that it held when they were looked at last; None while nobody was given its memory"""
    edits = 0
    """how often other numbers were found"""
    alias: Tensor | None = None
    """the same memory and version as a plain tensor"""

    @property
    def data(self) -> Tensor:
        """See `torch.Tensor.data`."""
        _hand_out(self)
        alias: Tensor = _data.__get__(self)
        return alias

    @data.setter
    def data(self, value: Tensor) -> None:
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

    def detach(self) -> Tensor:
        """See `torch.Tensor.detach`; what comes back is tracked, too."""
        plain = Tensor.detach(self)  # type: ignore[arg-type]
        if torch.compiler.is_compiling() or type(plain) is not Tensor:
            return plain
        alias = plain.as_subclass(TrackedTensor)
        alias.owner = self if self.owner is None else self.owner
        return alias

    def plain(self) -> Tensor:
        """The same numbers in the same memory, untracked."""
        alias: Tensor = _data.__get__(self)
        return alias


class TrackedParameter(_Tracked, nn.Parameter):
    """A parameter that is tracked; its copies are, too."""

    def __deepcopy__(self, memo: dict[int, Any]) -> TrackedParameter:
        if id(self) not in memo:
            memo[id(self)] = _tracked(nn.Parameter(copy.deepcopy(self.plain(), memo), self.requires_grad))
        found: TrackedParameter = memo[id(self)]
        return found

    def __reduce_ex__(self, protocol: Any) -> Any:
        return _tracked, (nn.Parameter(self.plain(), self.requires_grad),)


class TrackedTensor(_Tracked, Tensor):
    """A tracked buffer; or what `detach` gives of a tracked tensor, which files and copies have as a plain one."""

    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    def __deepcopy__(self, memo: dict[int, Any]) -> Tensor:
        if id(self) not in memo:
            copied = copy.deepcopy(self.plain(), memo)
            memo[id(self)] = _tracked_buffer(copied) if self.owner is None else copied
        found: Tensor = memo[id(self)]
        return found

    def __reduce_ex__(self, protocol: Any) -> Any:
        return (_tracked_buffer, (self.plain(),)) if self.owner is None else self.plain().__reduce_ex__(protocol)  # type: ignore[no-untyped-call]


def _tracked(parameter: nn.Parameter) -> nn.Parameter:
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
        _tracked(parameter)
    for buffer in module.buffers():
        _tracked_buffer(buffer)


def numbers_of(tensor: Tensor) -> Tensor:
    """A tensor's numbers in their memory, which this keeps, without a graph; the tensor itself is not kept by it."""
    return tensor.plain() if isinstance(tensor, _Tracked) else tensor.detach()


def times_handed_out() -> int:
    """A number that grows whenever a tracked tensor's memory is handed out; 0 at first."""
    return _Handed.times


def times_replaced() -> int:
    """A number that grows whenever a tracked tensor is given other memory by `.data = ...`."""
    return _Handed.replaced


def is_tracked(tensor: Tensor) -> bool:
    """Whether a tensor notices when its memory is handed out or exchanged."""
    return isinstance(tensor, _Tracked)


def versioned(tensor: Tensor) -> Tensor:
    """The same memory and version as a plain tensor, which tells all of itself in a third of the time."""
    if not isinstance(tensor, _Tracked):
        return tensor
    alias = tensor.alias
    if alias is None:
        with torch.inference_mode(False):
            alias = tensor.alias = Tensor.detach(tensor)
    return alias


def is_handed_out(tensor: Tensor) -> bool:
    """Whether somebody may write into a tensor without its version telling."""
    return isinstance(tensor, _Tracked) and tensor.held is not None


def edits_of(tensor: Tensor) -> int:
    """How often a tensor was found written since its memory was handed out; looks now."""
    if not _Handed.times or not isinstance(tensor, _Tracked) or tensor.held is None:
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
