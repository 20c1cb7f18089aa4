"""From the house's docstrings to reStructuredText.

A docstring is plain text: code stands in single backticks, paragraphs that are indented or drawn are to be kept as they
are, and stars and underscores mean themselves.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sphinx.application import Sphinx

CODE = re.compile(r"`([^`]+)`", re.DOTALL)
NAME = re.compile(r"[A-Za-z_]\w*(\.\w+)*")
SPECIAL = re.compile(r"\\|\||_\b|(?<!^)\*|^\*(?! )", re.MULTILINE)
RAISES = re.compile(r"^ +(\w+): ", re.MULTILINE)


def setup(app: Sphinx) -> None:
    """Called by Sphinx."""
    app.connect("autodoc-process-docstring", _process)
    app.connect("autodoc-process-signature", _signature)
    app.connect("autodoc-skip-member", _skip)


def _process(app: Sphinx, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    lines[:] = converted("\n".join(lines)).split("\n")


def _signature(app: Sphinx, what: str, name: str, obj: Any, options: Any, args: str, returned: str) -> Any:
    """Without what only looks like an argument: a default that a dataclass makes anew, and torch's own."""
    if not args:
        return None
    return ("()" if args == "(*args: Any, **kwargs: Any)" else args.replace("<factory>", "...")), returned


def _skip(app: Sphinx, what: str, name: str, obj: Any, skip: bool, options: Any) -> bool | None:
    """Fields of named tuples, of which Python has more to say than the house."""
    return True if str(getattr(obj, "__doc__", "")).startswith("Alias for field number") else None


def converted(docstring: str) -> str:
    """The docstring in reStructuredText."""
    return "\n\n".join(_paragraph(text) for text in docstring.split("\n\n"))


def _paragraph(text: str) -> str:
    if text.startswith("    ") or "\n├──" in text:  # a formula, a tree
        return "::\n\n" + "\n".join(f"    {line}" for line in text.split("\n"))
    if text.startswith("Raises:\n"):
        text = RAISES.sub(r":raises \1: ", text.removeprefix("Raises:\n"))
    return "".join(_pieces(text))


def _pieces(text: str) -> Iterator[str]:
    end = 0
    for found in CODE.finditer(text):
        yield _escaped(text[end : found.start()])
        end = found.end()
        yield _code(found[1]) + ("\\ " if text[end : end + 1].isalnum() else "")  # `option`s
    yield _escaped(text[end:])


def _code(text: str) -> str:
    """A link where it names something on these pages: a class of any module, or anything of this one."""
    if not NAME.fullmatch(text):
        return f"``{text.strip()}``"
    return f":py:obj:`{'.' if text[0].isupper() else ''}{text}`"


def _escaped(text: str) -> str:
    """Stars, but for those of a list, bars and underscores at the end of a word mean themselves."""
    return SPECIAL.sub(r"\\\g<0>", text)
