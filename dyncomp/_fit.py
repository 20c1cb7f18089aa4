"""Whether a value fits an annotation, and an annotation in words."""

from __future__ import annotations

import math
import numbers
import types
from collections.abc import Mapping
from typing import Any, Literal, Union, get_args, get_origin

__all__ = ["Unfit", "fit", "type_in_words", "type_text"]


class Unfit(Exception):
    """The value is not one that the annotation allows."""


def fit(value: Any, wanted: Any) -> Any:
    """`value` as `wanted` has it (an int becomes a float where a float is wanted).

    Raises Unfit, or TypeError for an annotation that no option can have.
    """
    if wanted in _SCALARS:
        return _SCALARS[wanted](value)
    kind = get_origin(wanted)
    if kind not in _GENERICS:
        allowed = "int, float, bool, str, Literal[...], tuple[...] or `X | None`"
        raise TypeError(f"{type_text(wanted)} is none of {allowed}")
    return _GENERICS[kind](value, get_args(wanted))


def type_in_words(wanted: Any, bounds: str = "") -> str:
    """An annotation as an error message says it; `bounds` follow the numbers."""
    kind, arms = get_origin(wanted), get_args(wanted)
    if kind is Literal:
        return f"one of {', '.join(map(repr, arms))}"
    if kind in (Union, types.UnionType):
        return (", or " if bounds else " or ").join(type_in_words(arm, bounds) for arm in arms)
    if kind is tuple:
        items = (type_in_words(arm, bounds) for arm in arms if arm is not ...)
        return f"a tuple of {' and '.join(items)}"
    words = _WORDS.get(wanted, str(wanted))
    return f"{words} {bounds}" if bounds and wanted in (int, float) else words


def type_text(wanted: Any) -> str:
    """An annotation as it stands in the source: "float | None"."""
    kind, arms = get_origin(wanted), get_args(wanted)
    if kind in (Union, types.UnionType):
        return " | ".join(map(type_text, arms))
    if kind is Literal:
        return f"Literal[{', '.join(map(repr, arms))}]"
    if kind is tuple:
        return f"tuple[{', '.join('...' if arm is ... else type_text(arm) for arm in arms)}]"
    if wanted is types.NoneType:
        return "None"
    return wanted.__name__ if isinstance(wanted, type) and kind is None else str(wanted)


def _fit_int(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, numbers.Integral):
        raise Unfit
    return int(value)


def _fit_float(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise Unfit
    try:
        number = float(value)
    except OverflowError:
        raise Unfit from None
    if not math.isfinite(number):
        raise Unfit
    return number


def _fit_bool(value: Any) -> bool:
    if not isinstance(value, bool):
        raise Unfit
    return value


def _fit_str(value: Any) -> str:
    if not isinstance(value, str):
        raise Unfit
    return str.__str__(value)  # a subclass's own repr would not read back as a literal


def _fit_none(value: Any) -> None:
    if value is not None:
        raise Unfit


def _fit_choice(value: Any, choices: tuple[Any, ...]) -> Any:
    for choice in choices:
        if type(choice) is type(value) and choice == value:  # True == 1 == 1.0, yet only one was meant
            return choice
    raise Unfit


def _fit_any(value: Any, arms: tuple[Any, ...]) -> Any:
    for arm in arms:
        try:
            return fit(value, arm)
        except Unfit:
            continue
    raise Unfit


def _fit_tuple(value: Any, arms: tuple[Any, ...]) -> tuple[Any, ...]:
    if not isinstance(value, tuple):
        raise Unfit
    if len(arms) == 2 and arms[1] is ...:
        return tuple(fit(item, arms[0]) for item in value)
    if len(arms) != len(value):
        raise Unfit
    return tuple(fit(item, arm) for item, arm in zip(value, arms, strict=True))


_SCALARS: Mapping[Any, Any] = types.MappingProxyType(
    {int: _fit_int, float: _fit_float, bool: _fit_bool, str: _fit_str, types.NoneType: _fit_none}
)
_GENERICS: Mapping[Any, Any] = types.MappingProxyType(
    {Literal: _fit_choice, Union: _fit_any, types.UnionType: _fit_any, tuple: _fit_tuple}
)
_WORDS: Mapping[Any, str] = types.MappingProxyType(
    {
        int: "an integer",
        float: "a number",
        bool: "True or False",
        str: "a text in quotes",
        types.NoneType: "None",
    }
)
