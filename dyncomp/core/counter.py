"""Counts the multiply-adds of executed operators, and lists operators of unknown cost.

What an operator costs is said in `operators.py`. An operator that has no formula and is not known to be free is listed
in `uncounted`.

Generated code is no operator of torch: it runs under a counter as it does otherwise, and reports its multiply-adds to
the counter (`report`) by the same convention: a tap outside the map and an input that is known to be 0 count; padding
lanes of a vector register do not.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, Final, Literal, Protocol

import torch
from torch.utils._mode_utils import no_dispatch

from dyncomp.core.dispatch import DispatchMode
from dyncomp.core.operators import Formula, formula_of, is_free

EACH: Final = "each"
COUPLED: Final = "coupled"
MOVING: Final = "moving"
Part = int | range | Literal["each", "coupled", "moving"] | None
"""A part of a site, for metering.

An index: one unit; a range: several units of equal cost; `EACH`: all units, of equal cost; `COUPLED`: all pairs of a
unit and a unit that it reads, of equal cost; None: the overhead. `MOVING` is gather, scatter and selection, which is
not work of the network.
"""

Scope = tuple[str, Part] | None
"""The part of the network that an operator belongs to: (site, part), or None for what always runs."""


class Meter(Protocol):
    """Receives from a network's ops which part of which site runs."""

    def scope(self, site: str, part: Part) -> AbstractContextManager[None]:
        """Within the context, this part of the site runs."""

    def around(self) -> AbstractContextManager[None]:
        """Within the context, work belongs to the scope around the current one."""


class MacCounter(DispatchMode):
    """While active, adds the MACs and calls of every operator to the current scope."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.by_scope: Counter[Scope] = Counter()
        self.by_operator: Counter[str] = Counter()
        self.uncounted: Counter[str] = Counter()
        self.calls: Counter[Scope] = Counter()
        self.pauses = 0
        """number of open `uncounted` contexts; nothing is counted unless it is 0"""
        self._scopes: list[Scope] = [None]

    @property
    def total(self) -> int:
        """MACs of all scopes."""
        return sum(self.by_scope.values())

    @contextmanager
    def scope(self, site: str, part: Part) -> Iterator[None]:
        """Within the context, operators are added to this part of the site."""
        self._scopes.append((site, part))
        try:
            yield
        finally:
            self._scopes.pop()

    @contextmanager
    def around(self) -> Iterator[None]:
        """Within the context, operators are added to the scope around the current one."""
        self._scopes.append(self._scopes[-2])
        try:
            yield
        finally:
            self._scopes.pop()

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if self.pauses:
            return func(*args, **kwargs)
        formula = formula_of(func._overloadpacket)
        if formula is None and not is_free(func):
            with self:  # a composite operator counts as the operators that it calls
                parts = func.decompose(*args, **kwargs)
            if parts is not NotImplemented:
                return parts
        output = func(*args, **kwargs)
        name = str(func._overloadpacket)
        macs = None if formula is None else _priced(formula, args, kwargs, output)
        if macs is not None:
            self.add(name, macs)
            return output
        self.calls[self._scopes[-1]] += 1
        if not is_free(func):
            self.uncounted[name] += 1
        return output

    def add(self, operator: str, macs: int, calls: int = 1) -> None:
        """Add calls of an operator and their MACs to the current scope."""
        self.calls[self._scopes[-1]] += calls
        self.by_scope[self._scopes[-1]] += macs
        self.by_operator[operator] += macs


def _priced(formula: Formula, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> int | None:
    """The MACs of a call; None where the formula does not know its arguments, such as nested tensors."""
    try:
        return int(formula(*args, **kwargs, out_val=output))
    except (RuntimeError, ValueError, IndexError, TypeError, AssertionError, AttributeError):
        return None


def active_counters() -> list[MacCounter]:
    """The active counters of this thread, without paused ones."""
    if not torch._C._len_torch_dispatch_stack():
        return []
    return [mode for mode in _modes() if isinstance(mode, MacCounter) and not mode.pauses]


def is_only_counted() -> bool:
    """Whether counters are the only active dispatch modes of this thread; generated code may run then."""
    return not torch._C._len_torch_dispatch_stack() or all(isinstance(mode, MacCounter) for mode in _modes())


def _modes() -> list[Any]:
    return [torch._C._get_dispatch_stack_at(level) for level in range(torch._C._len_torch_dispatch_stack())]


def report(operator: str, macs: int, calls: int = 1) -> None:
    """Add the calls and MACs of work that is no operator of torch to the active counters."""
    for counter in active_counters():
        counter.add(operator, macs, calls)


@contextmanager
def uncounted() -> Iterator[None]:
    """Within the context, active counters are paused: for trials, and for copies that later passes share.

    Where no other dispatch mode is active, operators run at the speed that they have without a counter.
    """
    counters = active_counters()
    if not counters:
        yield
        return
    for counter in counters:
        counter.pauses += 1
    try:
        with no_dispatch() if is_only_counted() else nullcontext():
            yield
    finally:
        for counter in counters:
            counter.pauses -= 1
