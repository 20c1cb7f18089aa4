"""How processes of our own begin; known without torch, so that they can begin while this process imports it."""

from __future__ import annotations

import multiprocessing
from multiprocessing import forkserver
from typing import Any

TRAINING = "dyncomp.bench.jobs"
"""the module that a process for training runs"""
RECORDING = ("pandas", "pyarrow.parquet")
"""what a process for training imports beside: it writes a record of its test images"""
ALWAYS = ("torch._dynamo", "dyncomp.fast.generated_layers", "dyncomp.bench.origin")
"""what every process would import by itself, for seconds (the first optimiser wants torch._dynamo); the last of them
makes a process ready to be copied"""


def context(module: str) -> Any:
    """How processes begin: as copies of a fresh one that has imported torch and done nothing else; else from nothing.

    Never as copies of this process: its OpenMP team does not survive a fork, and what it holds would be theirs too.
    `module` is what the first of them runs; a later one that runs another imports what it needs by itself.
    """
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    found = multiprocessing.get_context("forkserver")
    found.set_forkserver_preload([module, *(RECORDING if module == TRAINING else ()), *ALWAYS])
    return found


def begin_early() -> None:
    """Start the fresh process for those that train: its imports, of seconds, go on beside this process's own."""
    if context(TRAINING).get_start_method() == "forkserver":
        forkserver.ensure_running()
