"""What a user types to name a plugin and its hyperparameters, and the plugins' side of it.

A spec is `name` or `name(key=value, ...)`; values are Python literals, never evaluated. A list
sweeps: `skipnet(target=[0.3, 0.5])` is two specs; a tuple is a plain value. Hyphen and underscore
in a name are the same.
"""

from __future__ import annotations

import dataclasses
import itertools
import re
from abc import ABC
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from dyncomp._literal import format_value, parse_value, shorten
from dyncomp._options import (
    Option,
    check_options,
    default_of,
    full_options,
    name_of,
    option,
    options_of,
)
from dyncomp.errors import InvalidSpec

__all__ = [
    "Configurable",
    "Option",
    "Spec",
    "check_options",
    "full_options",
    "full_spec",
    "name_of",
    "option",
    "options_of",
    "parse_spec",
    "parse_specs",
    "spec_of",
]

_NAME = re.compile(r"[A-Za-z][\w-]*", re.ASCII)
_ARGUMENT = re.compile(r"\s*([A-Za-z_][\w-]*)\s*=(.*)", re.ASCII | re.DOTALL)
_TOKEN = re.compile(
    r"""(?P<text>"(?:\\.|[^"\\])*"|'(?:\\.|[^'\\])*')"""
    r"""|(?P<open>[(\[{])|(?P<close>[)\]}])|(?P<comma>,)|(?P<quote>["'])|[^"'()\[\]{},]+""",
    re.DOTALL,
)
_CLOSING = {"(": ")", "[": "]", "{": "}"}
_GRAMMAR = "write name or name(key=value, ...)"


@dataclass(frozen=True)
class Spec:
    """A name and the options given for it; its text reads back as an equal Spec."""

    name: str
    options: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "options", dict(self.options))

    def __str__(self) -> str:
        inside = ", ".join(f"{key}={format_value(value)}" for key, value in self.options.items())
        return f"{self.name}({inside})" if inside else self.name

    def __hash__(self) -> int:
        return hash((self.name, frozenset(self.options)))


class Configurable(ABC):  # noqa: B024 - the kinds of plugins say what is abstract
    """Base of all that has hyperparameters: a frozen dataclass with `option(...)`s as fields."""

    def __post_init__(self) -> None:
        check_options(self)

    def __str__(self) -> str:
        return spec_of(self)


def parse_specs(text: str) -> list[Spec]:
    """The specs of a comma-separated list; sweeps in the order written, the last key fastest.

    Raises InvalidSpec.
    """
    if not text.strip(" \t\r\n,"):
        raise InvalidSpec(f"nothing is named in {text!r}; {_GRAMMAR}, several with commas between them")
    items = _split(text, text)
    if not all(item.strip() for item in items):
        raise InvalidSpec(f"a name is missing in {shorten(text)!r}; one comma between two names")
    return [spec for item in items for spec in _expand(item)]


def parse_spec(text: str) -> Spec:
    """The one spec that `text` spells, without a sweep. Raises InvalidSpec."""
    specs = parse_specs(text)
    if len(specs) > 1:
        raise InvalidSpec(f"{shorten(text)} is {len(specs)} specs; give one here: no list, no second name")
    return specs[0]


def spec_of(instance: Any) -> str:
    """The canonical spec of an instance: its name and what is not the default, in field order."""
    return str(Spec(name_of(instance), dict(_given(instance, with_defaults=False))))


def full_spec(instance: Any) -> str:
    """The spec of an instance with all its options, defaults included."""
    return str(Spec(name_of(instance), dict(_given(instance, with_defaults=True))))


def _given(instance: Any, *, with_defaults: bool) -> Iterator[tuple[str, Any]]:
    """The options that stand in the parentheses; a name template's fields stand in the name."""
    template = str(vars(type(instance)).get("registered_name", ""))
    for option_field in dataclasses.fields(instance):
        name, value = option_field.name, getattr(instance, option_field.name)
        if not option_field.init or f"{{{name}}}" in template:
            continue
        if with_defaults or value != default_of(option_field):
            yield name, value


def _expand(item: str) -> Iterator[Spec]:
    """The specs of one list item: the product of its sweeps."""
    name, arguments = _parse_item(item)
    choices = [value if isinstance(value, list) else [value] for value in arguments.values()]
    for values in itertools.product(*choices):
        yield Spec(name, dict(zip(arguments, values, strict=True)))


def _parse_item(item: str) -> tuple[str, dict[str, Any]]:
    name, parenthesis, rest = (part.strip() for part in item.partition("("))
    if not _NAME.fullmatch(name) or (parenthesis and not rest.endswith(")")):
        raise InvalidSpec(f"{shorten(item)!r} is not a spec; {_GRAMMAR}")
    name = name.replace("-", "_")
    inside = rest.removesuffix(")").strip()
    arguments: dict[str, Any] = {}
    for argument in _split(inside, item) if inside else []:
        key, value = _parse_argument(name, argument)
        if key in arguments:
            raise InvalidSpec(f"{name}: {key} is given twice; give it once, several values as a list")
        arguments[key] = value
    return name, arguments


def _parse_argument(name: str, argument: str) -> tuple[str, Any]:
    match = _ARGUMENT.fullmatch(argument)
    if not argument.strip():
        raise InvalidSpec(f"{name}: nothing stands between two commas; write {name}(key=value, ...)")
    if not match:
        raise InvalidSpec(f"{name}: {shorten(argument)} has no key; write {name}(key={shorten(argument)})")
    key = match[1].replace("-", "_")
    try:
        value = parse_value(match[2].strip(), key)
    except ValueError as error:
        raise InvalidSpec(f"{name}: {error}") from None
    if value == []:
        raise InvalidSpec(f"{name}: {key}=[] sweeps over nothing; give at least one value")
    return key, value


def _split(text: str, whole: str) -> list[str]:
    """`text` at its commas outside of quotes and brackets; `whole` is what an error shows."""
    parts, start, expected = [], 0, ""
    for token in _TOKEN.finditer(text):
        if token.lastgroup == "quote":
            raise InvalidSpec(f"a quote is not closed in {shorten(whole)}")
        if token.lastgroup == "open":
            expected += _CLOSING[token[0]]
        elif token.lastgroup == "close":
            if not expected.endswith(token[0]):
                raise InvalidSpec(f"unbalanced parentheses in {shorten(whole)}: {token[0]} opens nowhere")
            expected = expected[:-1]
        elif token.lastgroup == "comma" and not expected:
            parts.append(text[start : token.start()])
            start = token.end()
    if expected:
        raise InvalidSpec(f"unbalanced parentheses in {shorten(whole)}: {expected[-1]} is missing")
    return [*parts, text[start:]]
