"""Whether the fast path may be used: by environment variable, context manager, and installed packages."""

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
    """Context in which this thread runs networks, `deployed` ones too, by torch's operators alone; also in training.

    Processes that dyncomp starts in this context, for training and for timing, do the same.
    """
    return during(_enabled, False)


def is_enabled() -> bool:
    """Whether the fast path may be used in the current context; DYNCOMP_FAST is read when the package is imported."""
    return _enabled.get() and _process.enabled


def switch_off() -> None:
    """Disable the fast path in this process for good; for a process that was started in a `disabled` context."""
    _process.enabled = False


class _Process:
    """State that all threads of this process share. Raises InvalidValue where DYNCOMP_FAST is not "", 0 or 1."""

    def __init__(self) -> None:
        said = os.environ.get(VARIABLE, "")
        if said not in ("", "0", "1"):
            raise InvalidValue(f"{VARIABLE}={said}; give 0, which switches the fast path off, or 1, or leave it unset")
        self.enabled = said != "0"


_process = _Process()


@cache
def has_generator() -> bool:
    """Whether llvmlite, which generates machine code, is installed."""
    return find_spec("llvmlite") is not None
