"""Whether the fast path may be used, by environment and caller, and what it can do on this machine."""

from __future__ import annotations

import os
from contextlib import AbstractContextManager
from contextvars import ContextVar
from dataclasses import dataclass
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


@dataclass(frozen=True)
class Available:
    """Whether the fast path is enabled and generates code; `why_not` is "" where it does both, else the reason."""

    enabled: bool
    generates_code: bool
    vector_bits: int
    """width of the vector instructions that code is generated for; 0 without generated code"""
    why_not: str

    def __str__(self) -> str:
        """A short description, for records."""
        if not self.enabled:
            return "off"
        return f"code for vectors of {self.vector_bits} bits" if self.generates_code else f"no code: {self.why_not}"


def available() -> Available:
    """The state of the fast path in the current context of this process; loads the code generator."""
    if not is_enabled():
        return Available(False, False, 0, f"switched off by {VARIABLE}=0 or dyncomp.fast.disabled()")
    if not has_generator():
        return Available(True, False, 0, "llvmlite is not installed, so no machine code is generated")
    from dyncomp.fast.codegen import this_machine, works  # needs llvmlite

    here = this_machine()
    if here is None:
        return Available(True, False, 0, "no code is generated for this processor, or for the threads of this torch")
    if not works():
        return Available(True, False, 0, "generated code does not compute here what it should")
    return Available(True, True, 8 * here.vector_bytes, "")
