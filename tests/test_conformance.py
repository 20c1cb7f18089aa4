"""The conformance suite over the registry: every method on every backbone; a new one is tested without a line here."""

from __future__ import annotations

import pytest
from _pytest.mark import ParameterSet

from dyncomp.conformance import Case, examples, failures
from dyncomp.errors import CannotAttach
from dyncomp.registry import METHODS
from tests.registered import LIKE, marks_of

DEEP = ("mobilenet_v1", "msdnet")
"""backbones of so many layers that methods which are like another are left to the mark `slow` there"""


def cases() -> list[ParameterSet]:
    """All examples; those on large backbones have the mark `slow`, and on deep ones those like another method's."""
    return [
        pytest.param(
            method,
            backbone,
            marks=marks_of(method.partition("(")[0] if backbone.startswith(DEEP) else "", backbone),
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
