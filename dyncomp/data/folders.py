"""Where data lies, and where downloads go."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from dyncomp._cache import cache_folder
from dyncomp.errors import DataNotFound

ENVIRONMENT_VARIABLE = "DYNCOMP_DATA"


def data_folders(data_dir: Path | None = None) -> list[Path]:
    """Where data sets are looked for: `data_dir`, $DYNCOMP_DATA, the user's cache, in this order.

    The cache is `$XDG_CACHE_HOME/dyncomp`, or `~/.cache/dyncomp`; it need not exist, the others
    must.

    Raises:
        DataNotFound: a folder was named that does not exist: most likely a slip.
    """
    named = [
        ("--data-dir", data_dir),
        (f"${ENVIRONMENT_VARIABLE}", os.environ.get(ENVIRONMENT_VARIABLE) or None),
    ]
    folders = [_existing(source, Path(given)) for source, given in named if given is not None]
    return [*folders, cache_folder()]


def _existing(source: str, folder: Path) -> Path:
    folder = folder.expanduser()
    if not folder.is_dir():
        raise DataNotFound(f"{source}={folder} is not a folder; create it, correct it, or leave it out")
    return folder


def first_with(files: Iterable[str], places: Iterable[Path]) -> Path | None:
    """The first of `places` in which every one of `files` exists."""
    files = list(files)
    return next((place for place in places if all((place / file).exists() for file in files)), None)


def not_found(name: str, wanted: str, places: Iterable[Path], advice: str) -> DataNotFound:
    """The error for a data set that is nowhere: what is missing, where it looked, what to do."""
    looked = ", ".join(str(place) for place in places)
    return DataNotFound(f"{name}: no {wanted} in {looked}; {advice}")


def download(fetch: Callable[[str], object], result: str, cache: Path) -> str | None:
    """Let `fetch(folder)` fill a temporary folder; move its `result` into `cache` when whole.

    Two runs may do so at once, and either may be killed: nobody ever sees half a download. Gives
    the reason of a failure in one line, or None.
    """
    try:
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache, prefix=".download-") as temporary:
            fetch(temporary)
            with contextlib.suppress(OSError):  # another run was faster: its copy is as good
                os.replace(Path(temporary) / result, cache / result)
    except (RuntimeError, OSError) as error:
        return f"the download failed ({' '.join(str(error).split()) or type(error).__name__})"
    return None if (cache / result).exists() else f"the download brought no {result}"


def subfolders(folders: Sequence[Path], *names: str) -> list[Path]:
    """Each folder itself, then the named folders in it."""
    return [place for folder in folders for place in (folder, *(folder / name for name in names))]
