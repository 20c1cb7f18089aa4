"""Hyperparameters as dataclass fields: their help, their bounds and the check of every value."""

from __future__ import annotations

import dataclasses
import inspect
import math
import sys
import types
from dataclasses import MISSING, dataclass
from typing import Any, get_type_hints

from dyncomp._fit import Unfit, fit, type_in_words, type_text
from dyncomp._literal import format_value, shorten
from dyncomp.errors import BrokenPlugin, InvalidValue

__all__ = ["Bounds", "Option", "check_options", "full_options", "name_of", "option", "options_of"]


@dataclass(frozen=True)
class Bounds:
    """The range of a number; None is no bound."""

    ge: float | None = None
    gt: float | None = None
    le: float | None = None
    lt: float | None = None

    def fault(self, value: float) -> str:
        """What is wrong with `value`, or "" when it is inside."""
        if self.ge is not None and value < self.ge:
            return f"below {self.ge}"
        if self.gt is not None and value <= self.gt:
            return f"not above {self.gt}"
        if self.le is not None and value > self.le:
            return f"above {self.le}"
        return f"not below {self.lt}" if self.lt is not None and value >= self.lt else ""

    def __str__(self) -> str:
        if self.ge is not None and self.le is not None:
            return f"from {self.ge} to {self.le}"
        words = {"ge": "of at least", "gt": "above", "le": "of at most", "lt": "below"}
        limits = ((text, getattr(self, key)) for key, text in words.items())
        return " and ".join(f"{text} {limit}" for text, limit in limits if limit is not None)


@dataclass(frozen=True)
class Option:
    """One hyperparameter as `dyncomp list` shows it; without a default it is MISSING."""

    name: str
    type: str
    default: Any
    help: str = ""
    bounds: Bounds = Bounds()


def option(
    default: Any,
    help: str,
    *,
    ge: float | None = None,
    gt: float | None = None,
    le: float | None = None,
    lt: float | None = None,
) -> Any:
    """A dataclass field that is a hyperparameter; `help` is its one line in `dyncomp list`."""
    bounds = {"ge": ge, "gt": gt, "le": le, "lt": lt}
    return dataclasses.field(default=default, metadata={"help": help, **bounds})


def check_options(instance: Any) -> None:
    """Check every field of a dataclass against its annotation and bounds.

    An int becomes a float where one is wanted. Raises InvalidValue for the first value that does
    not fit, BrokenPlugin for an annotation that no option can have.
    """
    hints = _hints(type(instance))
    for field in dataclasses.fields(instance):
        wanted, given = hints[field.name], getattr(instance, field.name)
        subject = f"{name_of(instance)}: {field.name}"
        try:
            value = fit(given, wanted)
        except Unfit:
            raise InvalidValue(f"{subject}={_mismatch(given, wanted, _bounds(field))}") from None
        except TypeError as error:
            raise BrokenPlugin(f"{subject} is annotated wrongly: {error}") from None
        for number in _numbers(value):
            if fault := _bounds(field).fault(number):
                allowed = type_in_words(wanted, str(_bounds(field)))
                raise InvalidValue(f"{subject}={format_value(value)} is {fault}; give {allowed}")
        object.__setattr__(instance, field.name, value)


def options_of(cls: Any) -> tuple[Option, ...]:
    """The hyperparameters of a dataclass, in order."""
    hints = _hints(cls)
    return tuple(
        Option(
            name=field.name,
            type=type_text(hints[field.name]),
            default=default_of(field),
            help=field.metadata.get("help", ""),
            bounds=_bounds(field),
        )
        for field in dataclasses.fields(cls)
        if field.init
    )


def default_of(field: dataclasses.Field[Any]) -> Any:
    """A field's default; `dataclasses.MISSING` when it has none."""
    return field.default if field.default_factory is MISSING else field.default_factory()


def full_options(instance: Any) -> dict[str, Any]:
    """Every hyperparameter of an instance with its value, defaults included."""
    fields = dataclasses.fields(instance)
    return {field.name: getattr(instance, field.name) for field in fields if field.init}


def name_of(instance: Any) -> str:
    """The registered name, a template's fields filled in; else the name of the class."""
    cls = type(instance)
    registered = vars(cls).get("registered_name")
    return str(registered).format_map(vars(instance)) if registered else cls.__name__


def _bounds(field: dataclasses.Field[Any]) -> Bounds:
    return Bounds(**{key: field.metadata.get(key) for key in ("ge", "gt", "le", "lt")})


def _mismatch(given: Any, wanted: Any, bounds: Bounds) -> str:
    text = shorten(format_value(given))
    kind, allowed = type_in_words(wanted), type_in_words(wanted, str(bounds))
    if isinstance(given, float) and not math.isfinite(given):
        return f"{text} is not a finite number; give {allowed}"
    return f"{text} is not {kind}" + (f"; give {allowed}" if allowed != kind else "")


def _numbers(value: Any) -> list[float]:
    """The numbers in a value, those that bounds speak of."""
    if isinstance(value, tuple):
        return [number for item in value for number in _numbers(item)]
    return [value] if isinstance(value, int | float) and not isinstance(value, bool) else []


def _hints(cls: type) -> dict[str, Any]:
    """The fields' annotations; those of other attributes may name what only a type checker sees."""
    names = {field.name for field in dataclasses.fields(cls)}
    hints: dict[str, Any] = {}
    for owner in reversed(cls.__mro__):
        own = {key: hint for key, hint in inspect.get_annotations(owner).items() if key in names}
        module = vars(sys.modules[owner.__module__]) if owner.__module__ in sys.modules else {}
        holder = types.SimpleNamespace(__annotations__=own)
        try:
            hints |= get_type_hints(holder, dict(module), dict(vars(owner)))
        except (NameError, TypeError, SyntaxError) as error:
            raise BrokenPlugin(f"{owner.__name__}: an option's annotation cannot be read: {error}") from None
    return hints
