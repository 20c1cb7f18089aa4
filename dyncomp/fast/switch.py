"""Whether the fast path may be used: switched off by the environment or for a while, or without code generator."""

from __future__ import annotations

import os
from contextlib import AbstractContextManager
from contextvars import ContextVar
from functools import cache
from importlib.util import find_spec

from dyncomp.core.context import during
from dyncomp.errors import InvalidValue

VARIABLE = "DYNCOMP_FAST"

_enabled: ContextVar[bool] = ContextVar("enabled", default=True)


def disabled() -> AbstractContextManager[None]:
    """Inside, in this thread, networks run by torch's operators alone: `deployed` ones, too, and in training.

    So do the processes that dyncomp starts inside, for training and for timing.
    """
    return during(_enabled, False)


def is_enabled() -> bool:
    """Whether the fast path may be used here and now; DYNCOMP_FAST is read when the package is imported."""
    return _enabled.get() and _process.enabled


def switch_off() -> None:
    """Disable the fast path in this process, for good: a process that was started where it was disabled."""
    _process.enabled = False


class _Process:
    """What holds for all threads of this process."""

    def __init__(self) -> None:
        said = os.environ.get(VARIABLE, "")
        if said not in ("", "0", "1"):
            raise InvalidValue(f"{VARIABLE}={said}; give 0, which switches the fast path off, or 1, or leave it unset")
        self.enabled = said != "0"


_process = _Process()


@cache
def has_generator() -> bool:
    """Whether llvmlite is installed, which generates machine code."""
    return find_spec("llvmlite") is not None
