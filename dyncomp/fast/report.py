"""What the fast path can do on this machine, and the reason for what it cannot do."""

from __future__ import annotations

from dataclasses import dataclass

from dyncomp.fast.switch import VARIABLE, has_generator, is_enabled


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
