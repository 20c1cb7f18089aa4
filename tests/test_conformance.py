"""The conformance suite over the registry: every method on every backbone; a new one is tested without a line here."""

from __future__ import annotations

import pytest
from _pytest.mark import ParameterSet

from dyncomp.conformance import Case, examples, failures
from dyncomp.errors import CannotAttach
from dyncomp.registry import METHODS

LARGE = ("resnet18", "resnet50", "efficientnet_b0", "mnasnet_a1", "mobilenet_v2")
"""backbones of many layers or millions of parameters, on which a case takes several seconds"""


def cases() -> list[ParameterSet]:
    """All examples; those on large backbones have the mark `slow`."""
    return [
        pytest.param(method, backbone, marks=[pytest.mark.slow] if backbone.partition("(")[0] in LARGE else [])
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


def test_no_method_is_refused_by_every_backbone() -> None:
    assert {method for method, _ in examples()} == set(_all_specs())


def _all_specs() -> list[str]:
    return [spec for entry in METHODS.entries() for spec in (entry.name, *entry.load().examples)]
