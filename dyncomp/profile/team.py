"""The processes of the networks that are compared: started together, asked one at a time, ended whatever happens."""

from __future__ import annotations

import multiprocessing
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from types import ModuleType, TracebackType
from typing import Any, Self

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


class Failed(Exception):
    """A network could not do what it was asked; the message is the error to record."""


class Worker:
    """One network's process, from the parent's side."""

    def __init__(self, timed: Timed, setting: Setting, patience_s: float) -> None:
        self.timed, self.setting, self.patience_s = timed, setting, patience_s
        self.facts: Mapping[str, Any] = {}
        self._process: BaseProcess | None = None
        self._pipe: Connection | None = None

    @property
    def pid(self) -> int | None:
        """The process's id while it lives."""
        return self._process.pid if self._process is not None and self._process.is_alive() else None

    def start(self) -> None:
        """Start the process and ask it to build; neither is waited for. Raises Failed."""
        context = _context()
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=serve, args=(theirs, self.timed.make, self.setting), daemon=True)
        try:
            with _without_main():
                self._process.start()
        except Exception as error:  # what cannot travel to another process
            self._process = None
            raise Failed(" ".join(f"{type(error).__name__}: {error}".split())) from error
        finally:
            theirs.close()
        self.send("build")

    def started(self) -> None:
        """Wait until it is built. Raises Failed."""
        self.facts = self.receive(START_S)

    def send(self, name: str, *arguments: Any) -> None:
        """Ask without waiting."""
        assert self._pipe is not None
        with suppress(OSError):  # it has ended; `receive` says how
            self._pipe.send((name, *arguments))

    def receive(self, patience_s: float) -> Any:
        """The answer to what was sent. Raises Failed; a process that hangs is ended first."""
        assert self._pipe is not None
        try:
            if not self._pipe.poll(patience_s):
                self.end()
                raise Failed(f"TimeoutError: no answer for {patience_s:g} s; its process was ended")
            fine, answer = self._pipe.recv()
        except (EOFError, OSError):
            raise Failed(f"its process ended: {self._how_it_ended()}") from None
        if not fine:
            raise Failed(answer)
        return answer

    def ask(self, name: str, *arguments: Any) -> Any:
        """Send and receive."""
        self.send(name, *arguments)
        return self.receive(self.patience_s)

    def end(self) -> None:
        """End the process at once: it holds nothing that could be lost."""
        if self._process is not None:
            self._process.kill()
            self._process.join()
        if self._pipe is not None:
            self._pipe.close()

    def _how_it_ended(self) -> str:
        assert self._process is not None
        self._process.join(5)
        code = self._process.exitcode
        return f"killed by signal {-code}" if code is not None and code < 0 else f"exit status {code}"


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


def _context() -> Any:
    """How processes begin: as copies of a fresh one that has imported torch and done nothing else; else from nothing.

    Never as copies of this process: its OpenMP team does not survive a fork, and what it holds would be theirs too.
    """
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["dyncomp.profile.worker"])
    return context


@contextmanager
def _without_main() -> Iterator[None]:
    """Keep a new process from running the program's main module again, which knows nothing that it needs.

    Otherwise a script that calls us and has no `if __name__ == "__main__"` would start itself without end.
    """
    main = sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main
