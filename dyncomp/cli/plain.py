"""Output to terminals and files that cannot hold all signs: plain signs stand for the others."""

from __future__ import annotations

import codecs
import io
import sys
import unicodedata
from collections.abc import Mapping

_PLAIN = ("+/-", "...", "->", "x", "-", "-", "-", "|", "u")
SIGNS: Mapping[str, str] = dict(zip("±…→×–—─│µ", _PLAIN, strict=True))  # noqa: RUF001
HANDLER = "dyncomp.plain"


def write_plain_signs() -> None:
    """From now on, a sign that the encoding of an output lacks is written as a plain one, and never an error."""
    codecs.register_error(HANDLER, _in_plain_signs)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper) and stream.errors in ("strict", "backslashreplace"):  # Python's choices
            stream.reconfigure(errors=HANDLER)


def _in_plain_signs(error: UnicodeError) -> tuple[str, int]:
    """What stands for the signs that cannot be encoded, and where to go on."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    signs = error.object[error.start : error.end]
    return "".join(SIGNS.get(sign) or _without_marks(sign) for sign in signs), error.end


def _without_marks(sign: str) -> str:
    """A letter without its accents; ? for a sign that is no letter of ASCII."""
    return unicodedata.normalize("NFKD", sign).encode("ascii", "ignore").decode() or "?"
