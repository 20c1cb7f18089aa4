"""Runs jobs in processes of their own and says how far the memory of each rose.

A job is the name of a function, `package.module:function`, that takes arguments of JSON and gives a `Work`: it builds
the network and loads the batch, all before the measurement begins. The processes are forked from a server that has
imported the libraries and never run an operator, so that each costs no import and none finds another's memory.
"""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from types import TracebackType
from typing import Any

import torch

PATIENCE_S = 120.0
_SERVER = "from dyncomp.profile._server import serve; serve()"


class NotMeasured(Exception):
    """A figure that could not be taken; the text says why."""


class Apart:
    """The server of one run; started by the first job, ended by `close` or at the end of a `with` block."""

    def __init__(self, patience_s: float = PATIENCE_S) -> None:
        self.patience_s = patience_s
        self._server: subprocess.Popen[bytes] | None = None

    def rise_bytes(self, job: str, arguments: Mapping[str, Any]) -> int:
        """How far the job's memory rose while it ran: see `peak.rise_bytes`. Raises NotMeasured."""
        request = {"job": job, "arguments": arguments, "path": sys.path, "threads": torch.get_num_threads()}
        server = self._server = self._server or _started()
        assert server.stdin is not None
        assert server.stdout is not None
        try:
            server.stdin.write(json.dumps(request).encode() + b"\n")
            ready, _, _ = select.select([server.stdout], [], [], self.patience_s)
            line = server.stdout.readline() if ready else b""
        except OSError:
            ready, line = [server.stdout], b""
        if not line:
            self.close()
            what = "the process that measures memory ended" if ready else f"it took longer than {self.patience_s:g} s"
            raise NotMeasured(what)
        answer = json.loads(line)
        if "error" in answer:
            raise NotMeasured(answer["error"])
        return int(answer["bytes"])

    def close(self) -> None:
        """End the server and whatever it runs."""
        if self._server is not None:
            self._server.stdin.close()  # type: ignore[union-attr]
            self._server.stdout.close()  # type: ignore[union-attr]
            with suppress(ProcessLookupError):
                os.killpg(self._server.pid, signal.SIGKILL)
            self._server.wait()
            self._server = None

    def __enter__(self) -> Apart:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _started() -> subprocess.Popen[bytes]:
    """A session of its own: an interruption from the keyboard is the caller's, and all of it can be ended at once."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    return subprocess.Popen(
        [sys.executable, "-c", _SERVER],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        bufsize=0,
        env=environment,
        start_new_session=True,
    )
