"""The processes of the networks that are compared: started together, asked one at a time, ended whatever happens."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

from dyncomp.profile.child import Child, Failed
from dyncomp.profile.worker import Make, Setting, serve

PATIENCE_S = 300.0
"""the longest that a pass or a turn may take"""
START_S = 900.0
"""the longest that all may take to import torch and build, side by side on a busy machine"""


@dataclass(frozen=True)
class Timed:
    """A form of a network to be timed: its name among the others, and what builds it in a process of its own."""

    name: str
    make: Make


class Worker:
    """One network's process, from the parent's side."""

    def __init__(self, timed: Timed, setting: Setting, patience_s: float) -> None:
        self.timed, self.setting, self.patience_s = timed, setting, patience_s
        self.facts: Mapping[str, Any] = {}
        self._child: Child | None = None

    @property
    def pid(self) -> int | None:
        """The process's id while it lives."""
        return self._child.pid if self._child is not None else None

    def start(self) -> None:
        """Start the process and ask it to build; neither is waited for. Raises Failed."""
        self._child = Child(serve, self.timed.make, self.setting)
        self.send("build")

    def started(self) -> None:
        """Wait until it is built. Raises Failed."""
        self.facts = self.receive(START_S)

    def send(self, name: str, *arguments: Any) -> None:
        """Ask without waiting."""
        assert self._child is not None
        self._child.send((name, *arguments))

    def receive(self, patience_s: float) -> Any:
        """The answer to what was sent. Raises Failed; a process that hangs is ended first."""
        assert self._child is not None
        fine, answer = self._child.receive(patience_s)
        if not fine:
            raise Failed(answer)
        return answer

    def ask(self, name: str, *arguments: Any) -> Any:
        """Send and receive."""
        self.send(name, *arguments)
        return self.receive(self.patience_s)

    def end(self) -> None:
        """End the process at once: it holds nothing that could be lost."""
        if self._child is not None:
            self._child.end()


class Team:
    """The networks that are compared, each in a process of its own, kept alive over all batch sizes.

    A context: on leaving, by whatever way, no process is left. `errors` holds the networks that could not be built.
    """

    def __init__(self, timed: Sequence[Timed], setting: Setting, patience_s: float = PATIENCE_S) -> None:
        self.setting = setting
        self.errors: dict[str, str] = {}
        self._workers = {one.name: Worker(one, setting, patience_s) for one in timed}

    def __enter__(self) -> Self:
        try:
            self._start(list(self._workers.values()))
        except BaseException:
            self.end()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.end()

    @property
    def names(self) -> list[str]:
        """All networks, in order, those that could not be built included."""
        return list(self._workers)

    def ready(self) -> dict[str, Worker]:
        """The workers that can be asked; those that died of an earlier batch size are started again."""
        built = [worker for name, worker in self._workers.items() if name not in self.errors]
        self._start([worker for worker in built if worker.pid is None])
        return {name: worker for name, worker in self._workers.items() if name not in self.errors}

    def processes(self) -> list[int]:
        """The ids of the processes that live."""
        return [worker.pid for worker in self._workers.values() if worker.pid is not None]

    def end(self) -> None:
        """End all processes."""
        for worker in self._workers.values():
            worker.end()

    def _start(self, workers: Sequence[Worker]) -> None:
        """All at the same time: most of it is the import of torch."""
        started = [worker for worker in workers if self._tried(worker, worker.start)]
        for worker in started:
            self._tried(worker, worker.started)

    def _tried(self, worker: Worker, do: Callable[[], None]) -> bool:
        try:
            do()
        except Failed as error:
            self.errors[worker.timed.name] = str(error)
            worker.end()
            return False
        return True
