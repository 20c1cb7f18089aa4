"""Reads a record by its description: fills in what former versions lacked, and tells what does not fit."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from types import MappingProxyType, NoneType
from typing import Any, Literal, get_args, get_origin, get_type_hints, is_typeddict

from dyncomp.store.schema.key import LEFT_OUT, NEVER_ABSENT, Key

SCALARS: Mapping[Any, tuple[frozenset[type], str]] = MappingProxyType(
    {
        str: (frozenset({str}), "text"),
        int: (frozenset({int}), "whole number"),
        float: (frozenset({int, float}), "number"),
        bool: (frozenset({bool}), "true or false"),
    }
)
"""what JSON has for a type, and how that is called"""


@cache
def keys_of(kind: Any) -> Mapping[str, tuple[Any, Key]]:
    """The type and the description of every key of a kind of record, in order."""
    hints = get_type_hints(kind, include_extras=True)
    return MappingProxyType({name: get_args(hint) for name, hint in hints.items()})


@dataclass
class Fit:
    """A record as it is read, complete, and what of it does not fit its description, by name."""

    record: dict[str, Any] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)
    """keys that are missing or of another type: whoever relies on the description would fail"""
    oddities: list[str] = field(default_factory=list)
    """keys that nobody has described, or that have no place in such a record"""

    @classmethod
    def of(cls, record: Mapping[str, Any], kind: Any) -> Fit:
        """What JSON of that kind of record is read as."""
        fit = cls()
        fit.record = fit._part(record, kind, "")
        return fit

    def _part(self, part: Mapping[str, Any], kind: Any, place: str) -> dict[str, Any]:
        described = keys_of(kind)
        self.oddities += [f"unknown key {place}{name}" for name in part if name not in described]
        read = dict(part)
        for name, (hint, key) in described.items():
            due = name in part if key.when.holds is None else key.when.holds(part)
            if name in part:
                read[name] = self._value(part[name], hint, place + name)
                if not due:
                    self.oddities.append(f"{place}{name} stands only where {key.when.words}")
            elif due and (found := key.stand_in(part)) is NEVER_ABSENT:
                self.faults.append(f"no {place}{name}")
            elif due and found is not LEFT_OUT:
                read[name] = found
        return read

    def _value(self, value: Any, hint: Any, place: str) -> Any:
        origin, inner = get_origin(hint), get_args(hint)
        if NoneType in inner:
            return value if value is None else self._value(value, inner[0], place)
        if is_typeddict(hint) and isinstance(value, Mapping):
            return self._part(value, hint, f"{place}.")
        if origin is Mapping and isinstance(value, Mapping):
            return dict(zip(value, self._several(value.items(), inner[1], place), strict=True))
        if origin is Sequence and isinstance(value, list):
            return self._several(list(enumerate(value)), inner[0], place)
        fits = hint is Any or value in inner if hint not in SCALARS else type(value) in SCALARS[hint][0]
        if not fits:
            self.faults.append(f"{place} is no {in_words(hint)}")
        return value

    def _several(self, items: Collection[tuple[Any, Any]], hint: Any, place: str) -> list[Any]:
        """The values of items, each a name or number and a value."""
        if hint in SCALARS and SCALARS[hint][0].issuperset(type(value) for _, value in items):  # samples are many
            return [value for _, value in items]
        return [self._value(value, hint, f"{place}[{name}]") for name, value in items]


def in_words(hint: Any, link: Callable[[str], str] = str) -> str:
    """A type as it is called in a message; `link` makes of a part's title what leads there."""
    origin, inner = get_origin(hint), get_args(hint)
    if hint is Any:
        return "anything"
    if NoneType in inner:
        return f"{in_words(inner[0], link)} or null"
    if origin is Literal:
        return " or ".join(f"`{one}`" for one in inner)
    if origin is Mapping:
        return f"{in_words(inner[1], link)} by name"
    if origin is Sequence:
        return f"list of {in_words(inner[0], link)}"
    return SCALARS[hint][1] if hint in SCALARS else link(title_of(hint))


def title_of(kind: type) -> str:
    """What a described part of a record is called: `LeftOutRecord` is left out."""
    name = kind.__name__.removesuffix("Record")
    return "".join(f" {letter.lower()}" if letter.isupper() else letter for letter in name).strip()
