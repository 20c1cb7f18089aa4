"""A network that is timed in this process, alone: one that no other process can make."""

from __future__ import annotations

import gc
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Self

from dyncomp.profile.child import Failed
from dyncomp.profile.clock import Run
from dyncomp.profile.worker import Bench, Setting, answer_of


class Alone:
    """Stands for a `Team` of one, called `name`; a context that leaves the garbage collector as it was."""

    def __init__(self, name: str, run: Run, setting: Setting) -> None:
        self.errors: dict[str, str] = {}
        self._name, self._here = name, _Here(Bench(lambda: run, setting))
        self._collects = gc.isenabled()

    def __enter__(self) -> Self:
        self._here.facts = self._here.ask("build")
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._collects:
            gc.enable()

    def ready(self) -> Mapping[str, _Here]:
        """The one that is asked."""
        return {self._name: self._here}

    def processes(self) -> list[int]:
        """None but this one."""
        return []


class _Here:
    def __init__(self, bench: Bench) -> None:
        self.bench = bench
        self.facts: Mapping[str, Any] = {}

    def ask(self, name: str, *arguments: Any) -> Any:
        fine, answer = answer_of(self.bench, name, arguments)
        if not fine:
            raise Failed(answer)
        return answer
