"""Other libraries' errors in one line."""

from __future__ import annotations

LENGTH = 200
"""characters of an error that are shown"""


def one_line(error: Exception) -> str:
    """The error's kind and the beginning of what it says."""
    text = " ".join(f"{type(error).__name__}: {error}".split())
    return text if len(text) <= LENGTH else f"{text[:LENGTH]}..."
