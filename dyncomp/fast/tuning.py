"""Chooses between equal ways to compute the same thing by trying them once per shape and keeping the faster.

The choice changes speed and rounding, never the mathematics. It is made once per key in a process and kept.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable, Mapping
from contextlib import AbstractContextManager, nullcontext
from contextvars import ContextVar
from functools import partial
from typing import Any, TypeVar

import torch

from dyncomp.core.context import during
from dyncomp.core.locks import making

W = TypeVar("W")

_ROUNDS = 3
_HOPELESS = 5
_PATIENCE_S = 0.1  # a first call this short may be slow for what happens once only
_choices: dict[Hashable, str] = {}
_ways: dict[Hashable, Any] = {}
_turn: ContextVar[list[int] | None] = ContextVar("turn", default=None)
_LAST = -1
"""In the place of a turn: always the last way."""


def fastest(key: Hashable, ways: Mapping[str, Callable[[], Any]]) -> str:
    """The name of the fastest of `ways`, measured at the first call with this key.

    Where nothing can be tried (inside torch.compile, or while operators are counted) it is the first, unless the key
    is known already, and its way open.
    """
    first = next(iter(ways))
    if len(ways) == 1 or torch.compiler.is_compiling():
        return first
    turn = _turn.get()
    if turn is not None:
        turn[0] += turn[0] != _LAST
        return list(ways)[turn[0] % len(ways)]
    if key not in _choices:
        if torch._C._len_torch_dispatch_stack() > 0:
            return first
        with making:  # one at a time: threads that try side by side would time each other
            if key not in _choices:
                _choices[key] = _try(ways)
    return _choices[key] if _choices[key] in ways else first


def chosen(key: Hashable, able: Callable[[], Mapping[str, W]], trial: Callable[[W], Any]) -> W:
    """The fastest way of `able()`, by what `trial(way)` takes; remembered, because even asking what is able is dear.

    `key` says all that `able` depends on, but for whether operators are counted, compiled or traced: then it is asked.
    """
    remembers = _turn.get() is None and not is_watched()
    if remembers and key in _ways:
        found: W = _ways[key]
        return found
    ways = able()
    way = ways[fastest(key, {name: partial(trial, way) for name, way in ways.items()})]
    if remembers:
        _ways[key] = way
    return way


def power_of_two(count: int) -> int:
    """The smallest that is no less than `count`; 0 for none. By it, batches of similar size share a choice."""
    return 1 << (count - 1).bit_length() if count else 0


def is_watched() -> bool:
    """Whether somebody looks at the operators: a compiler, a trace, a counter, a transformation such as vmap."""
    return (
        torch.compiler.is_compiling()
        or torch._C._len_torch_dispatch_stack() > 0
        or torch._C._get_tracing_state() is not None
        or torch._C._functorch.maybe_current_level() is not None
        or torch.autograd.forward_ad._current_level >= 0
    )


def in_turn() -> AbstractContextManager[None]:
    """Inside, nothing is timed: the ways are taken in turn, so that a test sees all of them, always alike."""
    return during(_turn, [0])


def by_last_ways() -> AbstractContextManager[None]:
    """Inside, nothing is timed: of all ways the last is taken, which is code of our own where there is some."""
    return during(_turn, [_LAST])


def takes_turns() -> bool:
    """Whether ways are taken without a trial: then nothing may be kept that depends on one."""
    return _turn.get() is not None


def choices() -> dict[str, str]:
    """What was chosen so far, for the record."""
    return {str(key): way for key, way in _choices.items()}


def _try(ways: Mapping[str, Callable[[], Any]]) -> str:
    with _unseen():
        return _fastest_of(ways)


def _unseen() -> AbstractContextManager[Any]:
    """Inside, what a trial saves for its backward pass is not seen by whoever keeps or counts what passes save."""
    if not torch._C._autograd._saved_tensors_hooks_is_enabled():  # type: ignore[attr-defined]  # then nobody does
        return nullcontext()
    return torch.autograd.graph.saved_tensors_hooks(_itself, _itself)


def _itself(tensor: torch.Tensor) -> torch.Tensor:
    return tensor


def _fastest_of(ways: Mapping[str, Callable[[], Any]]) -> str:
    first = {name: _seconds(run) for name, run in ways.items()}  # warms up, and tells the hopeless
    bar = max(_PATIENCE_S, _HOPELESS * min(first.values()))
    # a second chance, without what was made at the first call
    left = {name: run for name, run in ways.items() if first[name] <= bar or _seconds(run) <= bar}
    best = dict.fromkeys(left, float("inf"))
    for _ in range(_ROUNDS):
        for name, run in left.items():
            best[name] = min(best[name], _seconds(run))
    return min(best, key=best.__getitem__)


def _seconds(run: Callable[[], Any]) -> float:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    begin = time.perf_counter()
    run()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - begin
