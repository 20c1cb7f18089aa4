"""Files that are either whole or absent: a kill in a write leaves a temp file that nobody reads."""

from __future__ import annotations

import json
import math
import os
import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from dyncomp.errors import OutputError

TEMP_PREFIX = ".dyncomp-tmp-"


@contextmanager
def told_in_one_line(action: str, path: Path) -> Iterator[None]:
    """Any `OSError` inside becomes an `OutputError` of one line: what, where, why, what to do."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise OutputError(
            f"cannot {action} {str(path)!r}: {reason}; give another folder by --output or mend this one"
        ) from error


def write_atomically(contents: Mapping[Path, bytes]) -> None:
    """Write files together: each is on disk under a temp name before the first takes its place.

    They take their places in the order given, so the one that commits the others goes last. Raises `OutputError` where
    one cannot be written; no file is then half there, and a disk that is full has changed none.
    """
    staged: dict[Path, Path] = {}
    try:
        for path, content in contents.items():
            with told_in_one_line("write", path):
                staged[path] = _staged(path, content)
        for path, temp in staged.items():
            with told_in_one_line("write", path):
                os.replace(temp, path)
    finally:
        for temp in staged.values():
            temp.unlink(missing_ok=True)


def _staged(path: Path, content: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    temp = path.with_name(f"{TEMP_PREFIX}{secrets.token_hex(6)}-{path.name}")
    try:
        with temp.open("xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
    except OSError:
        temp.unlink(missing_ok=True)
        raise
    return temp


def plain(value: Any) -> Any:
    """`value` in the types of JSON: NumPy's unwrapped, numbers that are not finite as null."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(item) for item in (sorted(value) if isinstance(value, set | frozenset) else value)]
    if isinstance(value, bool | int | str) or value is None:
        return value
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if hasattr(value, "tolist"):  # NumPy's scalars and arrays, known without importing it
        return plain(value.tolist())
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    raise TypeError(f"a record cannot hold a {type(value).__name__}: {value!r}")


def json_bytes(value: Any) -> bytes:
    """Readable JSON (UTF-8, one space of indent, a newline at the end)."""
    text = json.dumps(plain(value), indent=1, ensure_ascii=False, allow_nan=False)
    return (text + "\n").encode()
