"""When a record was made, and by which commit of the code."""

from __future__ import annotations

import subprocess
from datetime import UTC, datetime
from functools import cache
from pathlib import Path


def now() -> str:
    """The time in UTC, ISO 8601 to the millisecond: records are ordered by it."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


@cache
def git_commit(file: Path = Path(__file__)) -> str | None:
    """The commit of the code that runs, marked `-dirty` when the tree differs from it; None outside a checkout.

    A package that is installed inside somebody's repository, yet no part of it, has no commit: `file` must be tracked.
    """
    try:
        _git(file.parent, "ls-files", "--error-unmatch", file.name)
        return _git(file.parent, "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*")
    except (OSError, subprocess.SubprocessError):
        return None


def _git(folder: Path, *arguments: str) -> str:
    command = ["git", "--no-optional-locks", "-C", str(folder), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=5, check=True)
    return done.stdout.strip()
