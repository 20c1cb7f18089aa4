"""The directive `plugins`: all methods, backbones or data sets of the package, each with its options.

The registry is the list, so a new file needs no line here.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import MISSING
from typing import TYPE_CHECKING, Any, ClassVar

from docutils import nodes
from docutils.parsers.rst import Directive
from docutils.statemachine import StringList
from sphinx.util.nodes import nested_parse_with_titles

from dyncomp import registry
from dyncomp.spec import Configurable, Option, options_of

if TYPE_CHECKING:
    from sphinx.application import Sphinx

FIRST, LAST = 400, 600


def setup(app: Sphinx) -> None:
    """Called by Sphinx."""
    app.add_directive("plugins", Plugins)
    app.connect("autodoc-process-signature", _signature, priority=FIRST)
    app.connect("autodoc-process-docstring", _options, priority=LAST)


class Plugins(Directive):
    """`.. plugins:: METHODS`: the entries of that registry which this package holds."""

    required_arguments: ClassVar[int] = 1

    def run(self) -> list[nodes.Node]:
        """A section for each."""
        lines: list[str] = []
        for entry in getattr(registry, self.arguments[0]).entries():
            cls = entry.load()
            if cls.__module__.startswith("dyncomp."):
                paper = f"Paper: {entry.paper}." if entry.paper else ""
                lines += [entry.name, "-" * len(entry.name), "", paper, ""]
                lines += [f".. autoclass:: {cls.__module__}.{cls.__qualname__}", ""]
        parent = nodes.section()
        parent.document = self.state.document
        nested_parse_with_titles(self.state, StringList(lines, "plugins"), parent)
        return parent.children


def _is_plugin(what: str, obj: Any) -> bool:
    return what == "class" and issubclass(obj, Configurable) and "registered_name" in vars(obj)


def _signature(app: Sphinx, what: str, name: str, obj: Any, options: Any, *given: str) -> tuple[str, str] | None:
    return ("", "") if _is_plugin(what, obj) else None  # the table of options says it


def _options(app: Sphinx, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    if _is_plugin(what, obj) and options_of(obj):
        lines += ["", *_table(options_of(obj))]


def _table(options: tuple[Option, ...]) -> Iterator[str]:
    yield from (".. list-table::", "   :header-rows: 1", "   :widths: auto", "")
    yield from _row("option", "type", "default", "meaning")
    for option in options:
        default = "" if option.default is MISSING else f"``{option.default!r}``"
        bounds = str(option.bounds)
        meaning = f"{option.help}; {bounds}" if bounds else option.help
        yield from _row(f"``{option.name}``", f"``{option.type}``", default, _plain(meaning))
    yield ""


def _row(*cells: str) -> Iterator[str]:
    for index, cell in enumerate(cells):
        yield f"   {' ' if index else '*'} - {cell}"


def _plain(text: str) -> str:
    return text.replace("\\", "\\\\").replace("*", "\\*").replace("`", "\\`").replace("|", "\\|").replace("_", "\\_")
