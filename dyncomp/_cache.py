"""The folder of the user for what can be made again: downloads, and generated code."""

from __future__ import annotations

import os
from pathlib import Path


def cache_folder() -> Path:
    """`$XDG_CACHE_HOME/dyncomp`, or `~/.cache/dyncomp`; it need not exist."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "dyncomp"
