"""The server behind `Apart`: forks a process for each job that it is asked for."""

from __future__ import annotations

import gc
import importlib
import json
import os
import signal
import sys
from collections.abc import Mapping
from typing import Any, NoReturn

import torch

from dyncomp.errors import in_one_line
from dyncomp.profile.peak import Work, load_libraries, rise_bytes


def serve() -> None:
    """Answer requests, a line of JSON each, until standard input ends. What jobs print goes to standard error."""
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    torch.set_num_threads(1)  # a process that is forked would wait for ever for the threads of this one
    load_libraries()
    for line in sys.stdin.buffer:
        answers.write(_answer(line) + b"\n")
        answers.flush()


def _answer(line: bytes) -> bytes:
    request = json.loads(line)
    sys.path[:] = request["path"]
    try:
        importlib.import_module(request["job"].partition(":")[0])  # here once, not in every process
    except Exception as error:
        return json.dumps({"error": in_one_line(error)}).encode()
    gc.freeze()  # else every process would copy what its collector touches
    readable, writable = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(readable)
        _work(request, writable)
    os.close(writable)
    with os.fdopen(readable, "rb") as pipe:
        said = pipe.read()
    _, status = os.waitpid(child, 0)
    return said or json.dumps({"error": _death(status)}).encode()


def _work(request: Mapping[str, Any], writable: int) -> NoReturn:
    """The forked process: do the job, write one line, end without the server's clean-up."""
    try:
        torch.set_num_threads(request["threads"])
        module, _, function = request["job"].partition(":")
        work = getattr(importlib.import_module(module), function)(**request["arguments"])
        assert isinstance(work, Work)
        answer: dict[str, Any] = {"bytes": rise_bytes(work)}
    except BaseException as error:
        answer = {"error": in_one_line(error)}
    os.write(writable, json.dumps(answer).encode())
    os._exit(0)


def _death(status: int) -> str:
    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        why = ", perhaps for want of memory" if number == signal.SIGKILL else ""
        return f"its process was ended by signal {number}{why}"
    return f"its process ended with status {os.waitstatus_to_exitcode(status)}"
