"""The names of forms in a timing, and which of two is the faster."""

from __future__ import annotations

import pytest

from dyncomp.samples import Rounds, fastest_form, is_compiled, key_in, name_of_form
from dyncomp.samples.forms import COMPILED, DENSE, SPARSE


@pytest.mark.parametrize("form", [SPARSE, DENSE, SPARSE + COMPILED, DENSE + COMPILED])
def test_a_name_says_its_key_and_whether_it_is_compiled(form: str) -> None:
    name = name_of_form("0123abcd", form)
    assert key_in(name) == "0123abcd"
    assert is_compiled(name) == form.endswith("compiled")
    assert (name == "0123abcd") == (form == SPARSE)


def test_names_differ() -> None:
    names = {name_of_form("a", form) for form in (SPARSE, DENSE, SPARSE + COMPILED, DENSE + COMPILED)}
    assert len(names) == 4


@pytest.mark.parametrize(("eager", "compiled", "faster"), [([2.0], [1.0], "a.sparse_compiled"), ([1.0], [2.0], "a")])
def test_the_faster_form(eager: list[float], compiled: list[float], faster: str) -> None:
    rounds = Rounds({"a": eager * 5, "a.sparse_compiled": compiled * 5, "a.dense": [0.1] * 5})
    assert fastest_form(rounds, "a") == faster


def test_what_did_not_run_is_not_the_faster() -> None:
    assert fastest_form(Rounds({"a": [1.0]}), "a") == "a"
    assert fastest_form(Rounds({"a.sparse_compiled": [1.0]}), "a") == "a"
