"""A process of our own at the other end of a pipe: how it begins, how it is asked, and how it ends."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from multiprocessing import connection, parent_process
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from types import ModuleType
from typing import Any

from dyncomp._processes import context
from dyncomp.fast import is_enabled, switch_off


class Failed(Exception):
    """A process could not do what it was asked; the message is the error to record."""


class Child:
    """A process that runs `target(pipe, *arguments)`, a function of a module's top level; see `live_with_parent`."""

    def __init__(self, target: Callable[..., None], *arguments: Any) -> None:
        """Start it, and do not wait for it. Raises Failed where the arguments cannot travel to it."""
        beginning = context(target.__module__)
        self.pipe, theirs = beginning.Pipe()
        self._process: BaseProcess = beginning.Process(
            target=_begin, args=(is_enabled(), dict(os.environ), target, theirs, *arguments), daemon=True
        )
        try:
            with _without_main():
                self._process.start()
        except Exception as error:
            self.pipe.close()
            raise Failed(" ".join(f"{type(error).__name__}: {error}".split())) from error
        finally:
            theirs.close()

    @property
    def pid(self) -> int | None:
        """The process's id while it lives."""
        return self._process.pid if self._process.is_alive() else None

    def send(self, message: Any) -> None:
        """Send without waiting."""
        with suppress(OSError):  # it has ended; `receive` says how
            self.pipe.send(message)

    def receive(self, patience_s: float | None = None) -> Any:
        """The next message; the wait is without end where there is no `patience_s`.

        Raises Failed where the process has ended, or hangs: then it is ended.
        """
        try:
            if not self.pipe.poll(patience_s):
                self.end()
                raise Failed(f"TimeoutError: no answer for {patience_s:g} s; its process was ended")
            return self.pipe.recv()
        except (EOFError, OSError):
            self._process.join(5)
            code = self._process.exitcode
            how = f"killed by signal {-code}" if code is not None and code < 0 else f"exit status {code}"
            if code == -signal.SIGKILL:
                how += ", perhaps for want of memory"
            raise Failed(f"its process ended: {how}") from None

    def end(self) -> None:
        """End the process at once: it holds nothing that could be lost."""
        self._process.kill()
        self._process.join()
        self.pipe.close()


def _begin(
    fast: bool, environment: Mapping[str, str], target: Callable[..., None], pipe: Connection, *arguments: Any
) -> None:
    """What a process runs: `target`, with the environment and the fast path as they were where it was started."""
    os.environ.update(environment)  # that of the moment, not of when the first process was started
    if not fast:
        switch_off()
    target(pipe, *arguments)


def live_with_parent() -> None:
    """What a child does first: let the parent be the one who is interrupted, and end when the parent does."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent is interrupted too, and ends us
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """A parent that is killed cannot end us, and work that hangs does not look at the pipe."""
    parent = parent_process()
    if parent is not None:
        connection.wait([parent.sentinel])
        os._exit(1)


def first_to_speak(children: list[Child]) -> list[Child]:
    """Wait until some of them have said something, or ended; which. Of none it is none."""
    if not children:
        return []
    pipes: dict[Connection, Child] = {child.pipe: child for child in children}
    return [pipes[pipe] for pipe in connection.wait(list(pipes)) if isinstance(pipe, Connection)]


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
