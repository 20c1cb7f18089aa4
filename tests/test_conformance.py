"""The conformance suite over the registry: every method on every backbone; a new one is tested without a line here."""

from __future__ import annotations

import pytest
from _pytest.mark import ParameterSet

from dyncomp.conformance import Case, examples, failures
from dyncomp.errors import CannotAttach
from dyncomp.registry import METHODS
from tests.registered import LIKE, marks_of

SMALL = "cifar_resnet8"
"""the backbone on which methods that are like another are tried too; elsewhere they have the mark `slow`"""


def cases() -> list[ParameterSet]:
    """All examples; those on large backbones have the mark `slow`, and beyond `SMALL` methods that are like another."""
    return [
        pytest.param(
            method,
            backbone,
            marks=marks_of("" if backbone.startswith(SMALL) else method.partition("(")[0], backbone),
        )
        for method, backbone in examples()
    ]


@pytest.mark.parametrize(("method", "backbone"), cases())
def test_conforms(method: str, backbone: str) -> None:
    case = Case(METHODS.create(method), backbone)
    try:
        case.fresh()
    except CannotAttach as error:
        assert "\n" not in str(error)
        assert backbone.partition("(")[0] in str(error)
    else:
        assert failures(case) == {}


@pytest.mark.parametrize(("method", "other"), LIKE.items())
def test_a_method_that_another_stands_for_has_its_ops(method: str, other: str) -> None:
    ops, others = (
        {type(op) for op in Case(METHODS.create(name), "cifar_resnet8").fresh().sites.values()}
        for name in (method, other)
    )
    assert ops == others


def test_no_method_is_refused_by_every_backbone() -> None:
    assert {method for method, _ in examples()} == set(_all_specs())


def _all_specs() -> list[str]:
    return [spec for entry in METHODS.entries() for spec in (entry.name, *entry.load().examples)]
