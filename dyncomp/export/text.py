"""Other libraries' errors in one line."""

from __future__ import annotations

import re

_COLOURS = re.compile(r"\x1b\[[0-9;]*m")
_SOURCES = re.compile(r"Exception from \S+:\d+:|Check '[^']*' failed at \S+:\d+:")
"""where in its own code OpenVINO raised an error, and raised it again"""

LENGTH = 200
"""characters of an error that are shown"""


def one_line(error: Exception) -> str:
    """The kind of the error that began it, and the beginning of what it says."""
    while isinstance(error.__cause__, Exception):
        error = error.__cause__
    text = " ".join(_SOURCES.sub("", _COLOURS.sub("", f"{type(error).__name__}: {error}")).split())
    return text if len(text) <= LENGTH else f"{text[:LENGTH]}..."
