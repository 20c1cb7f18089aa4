"""What there is to choose from: the plugins with their hyperparameters, as text, colour or JSON."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import MISSING, asdict, dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from dyncomp._literal import format_value
from dyncomp._options import Option
from dyncomp.errors import BrokenPlugin, UnknownName
from dyncomp.registry import BACKBONES, DATASETS, METHODS, Entry, Registry

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["KINDS", "Row", "listing", "print_listing", "render_listing"]

_REGISTRIES: Mapping[str, Registry[Any]] = MappingProxyType(
    {registry.plural: registry for registry in (METHODS, BACKBONES, DATASETS)}
)
KINDS: tuple[str, ...] = tuple(_REGISTRIES)
_INDENT = 4
_WIDTH = 100


@dataclass(frozen=True)
class Row:
    """A plugin as it is listed; `problem` says why its hyperparameters are not known, else ""."""

    name: str
    summary: str
    paper: str
    origin: str
    options: tuple[Option, ...]
    problem: str = ""


@dataclass(frozen=True)
class _Line:
    """A line of text; `style` is what a terminal shows it in."""

    text: str = ""
    style: str = ""


def listing(kind: str) -> list[Row]:
    """All plugins of a kind, "methods", "backbones" or "datasets". Raises UnknownName."""
    if kind not in _REGISTRIES:
        raise UnknownName.among("kind of plugin", kind, KINDS, "`dyncomp list` shows them all")
    return [_row(entry) for entry in _REGISTRIES[kind].entries()]


def render_listing(kinds: Sequence[str] = KINDS, *, as_json: bool = False, width: int = _WIDTH) -> str:
    """The plugins of some kinds as plain lines, or as JSON: {kind: [{name, summary, ...}]}."""
    if as_json:
        rows = {kind: [_as_dict(row) for row in listing(kind)] for kind in kinds}
        return json.dumps(rows, indent=2, ensure_ascii=False)
    return "\n".join(line.text for line in _lines(kinds, width))


def print_listing(console: Console, kinds: Sequence[str] = KINDS) -> None:
    """The plugins of some kinds on a console: in colour on a terminal, plain lines elsewhere."""
    width = min(console.width, _WIDTH) if console.is_terminal else _WIDTH
    for line in _lines(kinds, width):
        console.print(line.text, style=line.style, markup=False, highlight=False, soft_wrap=True)


def _row(entry: Entry) -> Row:
    try:
        options, problem = entry.options, ""
    except BrokenPlugin as error:
        options, problem = (), str(error)
    return Row(entry.name, entry.summary, entry.paper, entry.origin, options, problem)


def _as_dict(row: Row) -> dict[str, Any]:
    options = [_option_as_dict(option) for option in row.options]
    shown = {key: value for key, value in vars(row).items() if key != "problem" or value}
    return {**shown, "options": options}


def _option_as_dict(option: Option) -> dict[str, Any]:
    """`default` is absent where a value must be given, a bound where there is none."""
    bounds = {key: value for key, value in asdict(option.bounds).items() if value is not None}
    default = {} if option.default is MISSING else {"default": option.default}
    return {"name": option.name, "type": option.type, **default, "help": option.help, **bounds}


def _lines(kinds: Sequence[str], width: int) -> Iterator[_Line]:
    for index, kind in enumerate(kinds):
        rows = listing(kind)
        if index:
            yield _Line()
        yield _Line(f"{kind} ({len(rows)})", "bold underline")
        for row in rows:
            yield _Line()
            yield from _row_lines(row, width)


def _row_lines(row: Row, width: int) -> Iterator[_Line]:
    yield _Line(row.name, "bold cyan")
    yield from _wrapped(row.summary, width)
    yield _Line(" " * _INDENT + " · ".join(filter(None, (row.paper, row.origin))), "dim")
    if row.problem:
        yield from _wrapped(f"hyperparameters not known: {row.problem}", width, style="red")
    given = [_assignment(option, row.name) for option in row.options]
    column = min(max(map(len, given), default=0), 24)
    for option, text in zip(row.options, given, strict=True):
        yield from _wrapped(_explained(option), width, label=text.ljust(column))


def _wrapped(text: str, width: int, *, label: str = "", style: str = "") -> Iterator[_Line]:
    """`text` under an indent, or in the column behind a label."""
    first = " " * _INDENT + (f"  {label}  " if label else "")
    rest = " " * len(first)
    for line in textwrap.wrap(text, width, initial_indent=first, subsequent_indent=rest):
        yield _Line(line, style)


def _assignment(option: Option, name: str) -> str:
    if f"{{{option.name}}}" in name:
        return f"{{{option.name}}}"
    return f"{option.name}={'...' if option.default is MISSING else format_value(option.default)}"


def _explained(option: Option) -> str:
    """The help, and which values are allowed."""
    allowed = option.type
    if allowed.startswith("Literal["):
        allowed = allowed.removeprefix("Literal[").removesuffix("]").replace("'", '"')
    signs = {"ge": ">=", "gt": ">", "le": "<=", "lt": "<"}
    limits = ((sign, getattr(option.bounds, key)) for key, sign in signs.items())
    bounds = [f"{sign} {limit}" for sign, limit in limits if limit is not None]
    return f"{option.help} [{', '.join([allowed, *bounds])}]".strip()
