"""What a checkpoint says of its network, checked before anything is made of it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

import torch

from dyncomp.errors import InvalidValue
from dyncomp.train import read_facts, stored_numbers

SHAPE = ("classes", "in_channels", "image_size")
"""what `build` is told beside specs and seed"""

NEEDED = ("method", "backbone", "seed")
"""of an identity, what builds the network"""

DTYPES = {str(dtype).removeprefix("torch."): dtype for dtype in (torch.float32, torch.float64, torch.bfloat16)}
"""types that a network's parameters may have in a file, by name"""

MOST_PIXELS = 10_000
"""along a side of an image"""
SLACK = 4
"""how many times the numbers of its file a network may have: folding for use leaves some out"""
_GIVE = "give a file that dyncomp wrote"


def rebuilding_facts(checkpoint: Path) -> dict[str, Any]:
    """A checkpoint's facts, if they are enough to make its network again, and can be true. Raises InvalidValue."""
    facts = read_facts(checkpoint)
    if not isinstance(facts.get("identity", {}), dict):
        raise _wrong(checkpoint, "identity", facts["identity"], "an object")
    missing = [name for name in ("identity", *SHAPE) if name not in facts]
    missing += [f"identity.{name}" for name in NEEDED if not missing and name not in facts["identity"]]
    if missing:
        raise InvalidValue(
            f"{checkpoint} does not say its {', '.join(missing)}; give a checkpoint that a benchmark run wrote"
        )
    _check(checkpoint, "identity.", facts["identity"], _IDENTITY)
    _check(checkpoint, "", facts, _FACTS)
    names, classes = facts.get("class_names"), facts["classes"]
    if names and len(names) != classes:
        raise _wrong(checkpoint, "class_names", names, f"one name for each of {classes} classes")
    numbers = stored_numbers(checkpoint)
    for name in ("classes", "in_channels"):
        if facts[name] > numbers:
            raise _wrong(checkpoint, name, facts[name], f"no more than the {numbers} numbers in the file")
    return facts


def check_run(checkpoint: Path, identity: Mapping[str, Any], recipe: Collection[str]) -> None:
    """Raise InvalidValue where an identity says of its run what cannot be; `recipe` is what a recipe may say."""
    _check(checkpoint, "identity.", identity, _RUN)
    if not identity["recipe"].keys() <= set(recipe):
        raise _wrong(checkpoint, "identity.recipe", identity["recipe"], f"some of {', '.join(sorted(recipe))}")


def check_size(checkpoint: Path, wanted: int | None) -> None:
    """Raise InvalidValue where a network of `wanted` numbers, None for nobody knows, cannot be what the file holds."""
    if wanted is not None and wanted > SLACK * (numbers := stored_numbers(checkpoint)):
        raise InvalidValue(
            f"{checkpoint} holds the weights of another network: {numbers} numbers, and the one that it names has "
            f"{wanted}; {_GIVE}"
        )


_Rule = tuple[Callable[[Any], bool], str]
"""whether a value may be, and what may"""


def _whole(low: int, high: int | None = None) -> Callable[[Any], bool]:
    return lambda value: type(value) is int and low <= value and (high is None or value <= high)


def _optional(rule: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: value is None or rule(value)


def _listed(*kinds: type) -> Callable[[Any], bool]:
    return _optional(lambda value: isinstance(value, list) and all(type(entry) in kinds for entry in value))


_TEXT: _Rule = (lambda value: isinstance(value, str) and bool(value), "a spec as text")
_SIDE = f"an integer from 1 to {MOST_PIXELS}"
_COUNT: _Rule = (_whole(1), "an integer above 0")
_NUMBERS: _Rule = (_listed(int, float), "a list of numbers, or null")
_IDENTITY: Mapping[str, _Rule] = {
    "method": _TEXT,
    "backbone": _TEXT,
    "seed": (_whole(-(2**63), 2**64 - 1), "an integer from -2**63 to 2**64 - 1"),
}
_RUN: Mapping[str, _Rule] = {
    "dataset": _TEXT,
    "device": (lambda value: isinstance(value, str), "a device as text"),
    "recipe": (lambda value: isinstance(value, dict) and "epochs" in value, "an object with epochs"),
    "source": (lambda value: isinstance(value, dict), "an object"),
}
_FACTS: Mapping[str, _Rule] = {
    "classes": _COUNT,
    "in_channels": _COUNT,
    "image_size": (_whole(1, MOST_PIXELS), _SIDE),
    "shorter_side": (_optional(_whole(1, MOST_PIXELS)), f"{_SIDE}, or null"),
    "class_names": (_listed(str, int), "a list of names"),
    "mean": _NUMBERS,
    "std": _NUMBERS,
    "deployed": (lambda value: isinstance(value, bool), "true or false"),
    "dtype": (lambda value: isinstance(value, str) and value in DTYPES, f"one of {', '.join(DTYPES)}"),
}


def _check(checkpoint: Path, before: str, facts: Mapping[str, Any], rules: Mapping[str, _Rule]) -> None:
    """Facts that are not there are none that could be wrong."""
    for name, (holds, wanted) in rules.items():
        if name in facts and not holds(facts[name]):
            raise _wrong(checkpoint, f"{before}{name}", facts[name], wanted)


def _wrong(checkpoint: Path, name: str, value: object, wanted: str) -> InvalidValue:
    shown = repr(value)
    shown = shown if len(shown) <= 60 else f"{shown[:60]}..."
    return InvalidValue(f"{checkpoint} says {name}={shown}, where {wanted} belongs; {_GIVE}")
