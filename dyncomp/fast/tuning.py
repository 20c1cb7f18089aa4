"""Autotuning: chooses among equal ways of one computation by timing each of them once per shape.

The choice changes speed and rounding, never the mathematics. It is made once per key in a process and kept.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from contextvars import ContextVar
from functools import partial
from statistics import median
from typing import Any, TypeVar

import torch

from dyncomp.core.context import during, untimed
from dyncomp.core.counter import is_only_counted, uncounted
from dyncomp.core.locks import making

W = TypeVar("W")

_LEAST_ROUNDS, _MOST_ROUNDS = 3, 30
_UNCLEAR_ROUNDS = 9
"""how many rounds are made at least where no way was the fastest in all of the first three"""
_TRIAL_S = 0.01
"""how long short ways are tried in any case: an interruption outweighs three of their calls"""
_HOPELESS = 5
_PATIENCE_S = 0.1  # a way with a shorter first call stays: one-time work may dominate it
_choices: dict[Hashable, str] = {}
_ways: dict[Hashable, Any] = {}
_turn: ContextVar[list[int] | None] = ContextVar("turn", default=None)
_LAST = -1
"""In place of a turn counter: always take the last way."""


def fastest(key: Hashable, ways: Mapping[str, Callable[[], Any]]) -> str:
    """The name of the fastest of `ways`, timed at the first call with this key.

    While operators are watched (see `is_watched`), or where no trial is wanted (`dyncomp.core.context.untimed`), it is
    the way that was chosen for this key before, if `ways` has it, else the first.
    """
    first = next(iter(ways))
    if len(ways) == 1 or torch.compiler.is_compiling():
        return first
    turn = _turn.get()
    if turn is not None:
        turn[0] += turn[0] != _LAST
        return list(ways)[turn[0] % len(ways)]
    if key not in _choices:
        if is_watched() or untimed.get():
            return first
        with making:  # one trial at a time: concurrent trials would distort each other's times
            if key not in _choices:
                _choices[key] = _try(ways)
    return _choices[key] if _choices[key] in ways else first


def chosen(key: Hashable, able: Callable[[], Mapping[str, W]], trial: Callable[[W], Any]) -> W:
    """The fastest way of `able()`, timed by `trial(way)`; cached by key, since even calling `able` is expensive.

    `key` has to contain all that `able` depends on, except whether operators are watched: the cache is not used then.
    """
    remembers = _turn.get() is None and not is_watched() and not untimed.get()
    if remembers and key in _ways:
        found: W = _ways[key]
        return found
    ways = able()
    way = ways[fastest(key, {name: partial(trial, way) for name, way in ways.items()})]
    if remembers:
        _ways[key] = way
    return way


def code_pays(key: Hashable, trial: Callable[[bool], Any]) -> bool:
    """Whether generated code is faster than the layers; `trial(whether)` runs the code or the layers. See `chosen`."""
    return chosen(key, lambda: {"layers": False, "generated": True}, trial)


def power_of_two(count: int) -> int:
    """The smallest power of two that is at least `count`; 0 for 0. Batches of similar size share a choice by it."""
    return 1 << (count - 1).bit_length() if count else 0


def is_watched() -> bool:
    """Whether something observes operators that would not see generated code.

    That is a compiler, a tracer, a dispatch mode, or a transformation such as vmap; but not a `MacCounter`, to which
    generated code reports.
    """
    return (
        torch.compiler.is_compiling()
        or not is_only_counted()
        or torch._C._get_tracing_state() is not None
        or torch._C._functorch.maybe_current_level() is not None
        or torch.autograd.forward_ad._current_level >= 0
    )


def in_turn() -> AbstractContextManager[None]:
    """Context without timing: the ways are taken in turn, so that a test runs all of them, in a reproducible order."""
    return during(_turn, [0])


def by_last_ways() -> AbstractContextManager[None]:
    """Context without timing: the last way is taken, which is generated code where that is among the ways."""
    return during(_turn, [_LAST])


def takes_turns() -> bool:
    """Whether ways are taken without a trial; then nothing may be cached that depends on a trial."""
    return _turn.get() is not None


def choices() -> dict[str, str]:
    """The choices made so far, from key to way, for records."""
    return {str(key): way for key, way in _choices.items()}


def _try(ways: Mapping[str, Callable[[], Any]]) -> str:
    # the caller's saved-tensor hooks must not see what a trial saves for its backward pass
    unseen: AbstractContextManager[Any] = nullcontext()
    if torch._C._autograd._saved_tensors_hooks_is_enabled():  # type: ignore[attr-defined]  # else there are no such hooks
        unseen = torch.autograd.graph.saved_tensors_hooks(_itself, _itself)
    with uncounted(), unseen:
        first = {name: _seconds(run) for name, run in ways.items()}  # warms up, and finds ways that are far too slow
        bar = max(_PATIENCE_S, _HOPELESS * min(first.values()))
        # a slow way gets a second call, which has no one-time work
        left = {name: run for name, run in ways.items() if first[name] <= bar or _seconds(run) <= bar}
        begin = time.perf_counter()
        rounds: list[dict[str, float]] = []
        while not _is_decided(rounds, time.perf_counter() - begin):
            rounds.append({name: _seconds(run) for name, run in left.items()})
    # a machine that becomes faster within a trial favours the ways whose turn comes then, and by more than ways differ:
    # ways are compared within rounds, and one round does not decide, as a way's shortest time would
    totals = [sum(seconds.values()) or 1.0 for seconds in rounds]  # a coarse clock may see no time pass
    shares = {
        name: median(seconds[name] / total for seconds, total in zip(rounds, totals, strict=True)) for name in left
    }
    return min(shares, key=shares.__getitem__)


def _is_decided(rounds: Sequence[Mapping[str, float]], seconds: float) -> bool:
    if len(rounds) < _LEAST_ROUNDS:
        return False
    fastest_ways = {min(times, key=times.__getitem__) for times in rounds}
    enough = _LEAST_ROUNDS if len(fastest_ways) == 1 else _UNCLEAR_ROUNDS
    return len(rounds) >= enough and (seconds > _TRIAL_S or len(rounds) >= _MOST_ROUNDS)


def _itself(tensor: torch.Tensor) -> torch.Tensor:
    return tensor


def _seconds(run: Callable[[], Any]) -> float:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    begin = time.perf_counter()
    run()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - begin
