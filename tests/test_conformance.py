"""The conformance suite over the registry: every method on every backbone; a new one is tested without a line here."""

from __future__ import annotations

from functools import cache

import pytest

from dyncomp.conformance import CHECKS, Case, backbone_examples, method_examples
from dyncomp.errors import CannotAttach
from dyncomp.registry import METHODS


@cache
def case(method: str, backbone: str) -> Case | CannotAttach:
    try:
        built = Case(METHODS.create(method), backbone)
        built.fresh()
    except CannotAttach as error:
        return error
    return built


@pytest.mark.parametrize("check", CHECKS)
@pytest.mark.parametrize("backbone", backbone_examples())
@pytest.mark.parametrize("method", method_examples())
def test_conforms(method: str, backbone: str, check: str) -> None:
    built = case(method, backbone)
    if isinstance(built, CannotAttach):
        assert "\n" not in str(built)
        assert backbone.partition("(")[0] in str(built)
    else:
        CHECKS[check](built)
