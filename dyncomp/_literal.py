"""Python literals as option values: read without running code, written so that they read back."""

from __future__ import annotations

import ast
import cmath
import re
import warnings
from typing import Any

__all__ = ["format_value", "parse_value", "parse_without_warnings", "shorten"]

_WORD = re.compile(r"[A-Za-z_][\w.\-]*", re.ASCII)
_SPELLING = {"true": "True", "false": "False", "none": "None", "null": "None"}
_ALLOWED = "give a number, a text in quotes, True, False, None or a tuple of them"


def parse_value(text: str, key: str) -> Any:
    """The literal that `text` spells: a number, a text, a bool, None, a tuple, or a list (a sweep).

    Raises ValueError whose text says what is wrong with `key=text` and what to write instead.
    """
    if not text:
        raise ValueError(f"{key}= has no value; {_ALLOWED}")
    try:
        value = ast.literal_eval(parse_without_warnings(text, "eval").body)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        raise ValueError(f"{key}={shorten(text)} is not a literal; {_advice(text, key)}") from None
    if not all(_is_plain(item) for item in (value if isinstance(value, list) else [value])):
        raise ValueError(f"{key}={shorten(text)} is no value of an option; {_ALLOWED}")
    return value


def parse_without_warnings(source: str | bytes, mode: str = "exec") -> Any:
    """`ast.parse`, silent about invalid escapes: whoever imports the source is told then."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return ast.parse(source, mode=mode)


def format_value(value: Any) -> str:
    """`value` as a literal on one line; text in double quotes where that needs no escape."""
    if isinstance(value, str) and value.isprintable() and '"' not in value and "\\" not in value:
        return f'"{value}"'
    if isinstance(value, tuple | list):
        inside = ", ".join(format_value(item) for item in value)
        if isinstance(value, list):
            return f"[{inside}]"
        return f"({inside},)" if len(value) == 1 else f"({inside})"
    return " ".join(repr(value).split()) if not isinstance(value, str) else repr(value)


def shorten(text: str, limit: int = 60) -> str:
    """`text` on one line, cut in the middle of long ones."""
    line = " ".join(text.split())
    return line if len(line) <= limit else f"{line[: limit - 20]}...{line[-17:]}"


def _advice(text: str, key: str) -> str:
    if text.lower() in _SPELLING:
        return f"write {key}={_SPELLING[text.lower()]}"
    return f'put it in quotes: {key}="{text}"' if _WORD.fullmatch(text) else _ALLOWED


def _is_plain(value: Any) -> bool:
    if isinstance(value, tuple):
        return all(_is_plain(item) for item in value)
    if isinstance(value, int | float) and not isinstance(value, bool):
        return isinstance(value, int) or cmath.isfinite(value)
    return value is None or isinstance(value, bool | str)
