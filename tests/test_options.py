"""Hyperparameters: which values are kept, which are refused, and the specs made of them."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, make_dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import pytest

from dyncomp.errors import BrokenPlugin, InvalidValue
from dyncomp.spec import (
    Configurable,
    full_options,
    full_spec,
    name_of,
    option,
    options_of,
    parse_spec,
    spec_of,
)


@dataclass(frozen=True)
class Sample(Configurable):
    """Has an option of every type."""

    kind: ClassVar[str] = "not an option"

    target: float = option(0.5, "share", ge=0.0, le=1.0)
    experts: int = option(8, "experts", ge=1)
    gate: Literal["ff1", "ff2", "rnn"] = option("rnn", "gate")
    begin: int | None = option(None, "first block", ge=1)
    flag: bool = option(False, "a switch")
    label: str = option("x", "a text")
    rates: tuple[float, ...] = option((), "rates", gt=0.0, lt=1.0)
    pair: tuple[int, str] = option((1, "a"), "a pair")
    size: Literal["auto", 1, 2] = option("auto", "size")


@dataclass(frozen=True)
class Templated(Configurable):
    """As a registered template has it."""

    registered_name: ClassVar[str] = "net{depth}"
    depth: int = option(8, "layers", ge=2)
    width: float = option(1.0, "factor")


def test_defaults_are_allowed() -> None:
    assert spec_of(Sample()) == "Sample"


ALLOWED = [
    ("target", 1, 1.0),
    ("target", 0, 0.0),
    ("target", np.float32(0.25), 0.25),
    ("experts", np.int64(3), 3),
    ("gate", "ff1", "ff1"),
    ("begin", None, None),
    ("begin", 4, 4),
    ("flag", True, True),
    ("rates", (0.1, 0.2), (0.1, 0.2)),
    ("pair", (2, "b"), (2, "b")),
    ("size", 2, 2),
    ("label", np.str_("y"), "y"),
]


@pytest.mark.parametrize(("key", "given_value", "kept"), ALLOWED)
def test_allowed_value_is_kept_as_its_type(key: str, given_value: Any, kept: Any) -> None:
    value = getattr(Sample(**{key: given_value}), key)
    assert value == kept
    assert type(value) is type(kept)


WRONG = [
    ("target", 1.5, "Sample: target=1.5 is above 1.0; give a number from 0.0 to 1.0"),
    ("target", -1, "Sample: target=-1.0 is below 0.0; give a number from 0.0 to 1.0"),
    ("target", "high", 'Sample: target="high" is not a number; give a number from 0.0 to 1.0'),
    ("target", True, "Sample: target=True is not a number; give a number from 0.0 to 1.0"),
    ("target", None, "Sample: target=None is not a number; give a number from 0.0 to 1.0"),
    ("target", math.nan, "target=nan is not a finite number; give a number from 0.0 to 1.0"),
    ("target", math.inf, "target=inf is not a finite number"),
    ("target", 10**400, "is not a number; give"),
    ("experts", 0, "Sample: experts=0 is below 1; give an integer of at least 1"),
    ("experts", 2.0, "Sample: experts=2.0 is not an integer; give an integer of at least 1"),
    ("experts", True, "experts=True is not an integer"),
    ("gate", 3, "Sample: gate=3 is not one of 'ff1', 'ff2', 'rnn'"),
    ("gate", "FF1", "gate=\"FF1\" is not one of 'ff1', 'ff2', 'rnn'"),
    ("begin", 0, "begin=0 is below 1; give an integer of at least 1, or None"),
    ("begin", "a", 'begin="a" is not an integer or None; give'),
    ("flag", 1, "flag=1 is not True or False"),
    ("label", 3, "label=3 is not a text in quotes"),
    ("rates", (0.5, 1), "rates=(0.5, 1.0) is not below 1.0; give a tuple of a number above 0.0"),
    ("rates", (0.0,), "rates=(0.0,) is not above 0.0; give a tuple"),
    ("rates", [0.5], "rates=[0.5] is not a tuple of a number"),
    ("rates", ("a",), 'rates=("a",) is not a tuple of a number'),
    ("pair", (1,), "pair=(1,) is not a tuple of an integer and a text in quotes"),
    ("pair", ("a", 1), "is not a tuple of an integer and a text in quotes"),
    ("size", True, "size=True is not one of 'auto', 1, 2"),
    ("size", 1.0, "size=1.0 is not one of 'auto', 1, 2"),
    ("label", ["\n" * 9], "is not a text in quotes"),
]


@pytest.mark.parametrize(("key", "value", "words"), WRONG)
def test_wrong_value_says_what_to_give(key: str, value: Any, words: str) -> None:
    with pytest.raises(InvalidValue) as caught:
        Sample(**{key: value})
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_bounds_of_one_side() -> None:
    @dataclass(frozen=True)
    class OneSided(Configurable):
        most: int = option(0, "", le=3)
        less: float = option(0.0, "", lt=2.0)

    with pytest.raises(InvalidValue, match="above 3; give an integer of at most 3"):
        OneSided(most=4)
    with pytest.raises(InvalidValue, match=r"not below 2.0; give a number below 2.0"):
        OneSided(less=2)


def test_annotation_that_no_option_can_have() -> None:
    wrong = make_dataclass("Wrong", [("items", list[int], option((), "a list"))], bases=(Configurable,), frozen=True)
    with pytest.raises(BrokenPlugin, match=r"items is annotated wrongly: list\[int\] is none of"):
        wrong()


def test_annotation_that_cannot_be_read() -> None:
    wrong = make_dataclass("Wrong", [("size", "Nowhere", option(1, "a size"))], bases=(Configurable,), frozen=True)
    with pytest.raises(BrokenPlugin, match="Nowhere"):
        wrong()


def test_other_annotations_are_left_alone() -> None:
    @dataclass(frozen=True)
    class TypeCheckersOnly(Configurable):
        seen: ClassVar[Nowhere]  # type: ignore[name-defined] # noqa: F821
        size: int = option(1, "a size")

    assert TypeCheckersOnly(size=2).size == 2


def test_canonical_spec_has_what_is_not_the_default_in_field_order() -> None:
    sample = Sample(gate="ff1", target=1, rates=(0.5,))
    assert spec_of(sample) == 'Sample(target=1.0, gate="ff1", rates=(0.5,))'
    assert str(sample) == spec_of(sample)
    assert Sample(**parse_spec(spec_of(sample)).options) == sample


def test_full_spec_has_all() -> None:
    sample = Sample(experts=2)
    assert list(full_options(sample)) == [field.name for field in fields(sample)]
    assert full_options(sample)["experts"] == 2
    assert Sample(**parse_spec(full_spec(sample)).options) == sample
    assert full_spec(sample).count("=") == len(fields(sample))


def test_template_field_goes_back_into_the_name() -> None:
    net = Templated(depth=38, width=2.0)
    assert name_of(net) == "net38"
    assert spec_of(net) == "net38(width=2.0)"
    assert spec_of(Templated()) == "net8"
    assert full_spec(Templated()) == "net8(width=1.0)"
    assert full_options(net) == {"depth": 38, "width": 2.0}
    with pytest.raises(InvalidValue, match=r"net1: depth=1 is below 2"):
        Templated(depth=1)


def test_name_is_not_inherited() -> None:
    @dataclass(frozen=True)
    class Child(Templated):
        pass

    assert name_of(Child()) == "Child"


def test_options_of_a_class() -> None:
    options = {one.name: one for one in options_of(Sample)}
    assert "kind" not in options
    assert options["gate"].type == "Literal['ff1', 'ff2', 'rnn']"
    assert options["begin"].type == "int | None"
    assert options["rates"].type == "tuple[float, ...]"
    assert (options["target"].default, options["target"].help) == (0.5, "share")
    assert (options["target"].bounds.ge, options["target"].bounds.le) == (0.0, 1.0)
