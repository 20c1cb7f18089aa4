"""Runs jobs in processes of their own and says how far the memory of each rose.

A job is the name of a function, `package.module:function`, that returns a `Work`: it builds the network and loads the
batch, all before the measurement begins. The processes are copies of one that has imported the libraries and never run
an operator, so that each costs no import and none finds another's memory.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from importlib import import_module
from multiprocessing.connection import Connection
from typing import Any

import torch

from dyncomp.errors import in_one_line
from dyncomp.profile.child import Child, Failed, live_with_parent
from dyncomp.profile.peak import Work, load_libraries, rise_bytes

PATIENCE_S = 120.0


class NotMeasured(Exception):
    """A figure that could not be taken; the text says why."""


def rise_bytes_apart(job: str, arguments: Mapping[str, Any], patience_s: float = PATIENCE_S) -> int:
    """How far the memory of a process rises while the job runs: see `peak.rise_bytes`. Raises NotMeasured."""
    try:
        child = Child(_measure, job, dict(arguments), torch.get_num_threads())
        try:
            answer: int | str = child.receive(patience_s)
        finally:
            child.end()
    except Failed as error:
        raise NotMeasured(str(error)) from None
    if isinstance(answer, str):
        raise NotMeasured(answer)
    return answer


def _measure(pipe: Connection, job: str, arguments: Mapping[str, Any], threads: int) -> None:
    """The process of a job: sends the bytes, or the error in one line. What the job prints is lost."""
    live_with_parent()
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.dup2(nowhere, 2)
    torch.set_num_threads(threads)
    answer: int | str
    try:
        load_libraries()
        module, _, function = job.partition(":")
        work = getattr(import_module(module), function)(**arguments)
        assert isinstance(work, Work)
        answer = rise_bytes(work)
    except BaseException as error:
        answer = in_one_line(error)
    pipe.send(answer)
