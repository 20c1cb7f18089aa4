"""Object code on disk: what one process has compiled, later processes of the user load."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from dyncomp._cache import cache_folder

VARIABLE = "DYNCOMP_CODE_CACHE"
MOST_FILES = 4096
"""files beyond which the half that was not used for longest is removed; a file has some 10 to 100 KiB"""
_DIGEST_BYTES = hashlib.sha256().digest_size


def object_code(source: str, compile_it: Callable[[], bytes]) -> bytes:
    """The object code of a source, from disk where it is there and whole, else compiled and stored.

    `source` has to say everything that the object code depends on. A file that is damaged is compiled anew; where the
    folder cannot be used (see `usable_folder`), nothing is stored, and nothing fails.
    """
    folder = usable_folder()
    if folder is None:
        return compile_it()
    path = folder / f"{hashlib.sha256(source.encode()).hexdigest()}.o"
    stored = _read(path)
    if stored is not None:
        return stored
    made = compile_it()
    with suppress(OSError):  # a full disk costs the next process time, and nothing else
        _write(path, made)
    return made


def usable_folder() -> Path | None:
    """The folder of object code; None where it is switched off, cannot be made, or others could write into it.

    Code from it is run, so it has to belong to the user of this process, who alone may write into it.
    """
    if os.environ.get(VARIABLE) == "0":
        return None
    try:
        folder = cache_folder() / "code"
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        status = folder.stat()
    except (OSError, RuntimeError):  # RuntimeError: the user has no home
        return None
    return folder if status.st_uid == os.geteuid() and not status.st_mode & 0o022 else None


def _read(path: Path) -> bytes | None:
    """Stored object code; None where there is none, or not the one that was stored."""
    try:
        content = path.read_bytes()
        os.utime(path)  # files that are used are removed last
    except OSError:
        return None
    digest, made = content[:_DIGEST_BYTES], content[_DIGEST_BYTES:]
    return made if hashlib.sha256(made).digest() == digest else None


def _write(path: Path, made: bytes) -> None:
    """Store object code behind its digest; no reader sees a part of it."""
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, suffix=".part")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(hashlib.sha256(made).digest() + made)
        os.replace(temporary, path)
    except OSError:
        os.unlink(temporary)
        raise
    files = list(path.parent.iterdir())
    if len(files) > MOST_FILES:
        _remove_oldest(files)


def _remove_oldest(files: list[Path]) -> None:
    """Remove the half of the files that was not used for longest; other processes may do the same."""
    used: list[tuple[float, Path]] = []
    for file in files:
        with suppress(OSError):
            used.append((file.stat().st_mtime, file))
    for _, file in sorted(used)[: len(used) // 2]:
        file.unlink(missing_ok=True)
