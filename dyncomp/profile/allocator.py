"""The C library's allocator, set so that the time of a pass does not depend on what a process has freed before."""

from __future__ import annotations

import ctypes
import sys

_TRIM_THRESHOLD, _MMAP_MAX = -1, -4  # of `mallopt`, in glibc's malloc.h
_NEVER = 2**31 - 1

KEEPS = "keeps what is freed"
USUAL = "as it is"


def keep_freed_memory() -> str:
    """Let this process keep all memory that it frees, for itself; says whether it does.

    By itself glibc gives large blocks back to the system, above a size that rises with the blocks that were freed
    before. Every pass then faults its pages in anew, or does not, by the history of the process: the same network in
    two processes was seen to differ by a quarter, a convolution of 1 MB between two batch sizes by a factor of seven.
    The process holds at its end what it held at most. Elsewhere than on glibc the allocator stays as it is.
    """
    if not sys.platform.startswith("linux"):
        return USUAL
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):  # another C library
        return USUAL
    return KEEPS if mallopt(_MMAP_MAX, 0) and mallopt(_TRIM_THRESHOLD, _NEVER) else USUAL
