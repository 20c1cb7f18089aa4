"""Decorators that run by hand: in a notebook, an interpreter, a test."""

from __future__ import annotations

import linecache
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from dyncomp.errors import BrokenPlugin, NameCollision
from dyncomp.registry import METHODS, register_method
from dyncomp.spec import Configurable, option, spec_of


def test_by_hand() -> None:
    @register_method("my-method", paper="arXiv:1")
    @dataclass(frozen=True)
    class Mine(Configurable):
        """Mine."""

        target: float = option(0.5, "share", le=1.0)

    assert "my_method" in METHODS.names()
    assert METHODS.create("my-method(target=1)") == Mine(1.0)
    assert spec_of(Mine(target=0.25)) == "my_method(target=0.25)"
    entry = METHODS.entry("my_method")
    assert (entry.summary, entry.paper) == ("Mine.", "arXiv:1")
    assert entry.origin.startswith("registered in ")
    assert "test_register.py:" in entry.origin
    assert [one.name for one in entry.options] == ["target"]


def test_again_from_the_same_place_is_fine() -> None:
    for default in (1, 2):

        @register_method("again")
        @dataclass(frozen=True)
        class Again(Configurable):
            size: int = default

    assert METHODS.create("again") == Again(2)
    assert METHODS.entry("again").summary == ""


def test_collision_names_both_places() -> None:
    with pytest.raises(NameCollision) as caught:

        @register_method("skipnet")
        @dataclass(frozen=True)
        class Skip(Configurable):
            pass

    assert "method 'skipnet' is registered at two places" in str(caught.value)
    assert "methods/skipnet.py:" in str(caught.value)
    assert "test_register.py:" in str(caught.value)
    assert METHODS.entry("skipnet").origin == "built-in"


class Plain(Configurable):
    pass


@dataclass
class Thawed(Configurable):
    pass


@dataclass(frozen=True)
class Foreign:
    pass


@dataclass(frozen=True)
class Base(Configurable):
    pass


class Undecorated(Base):
    pass


UNFIT = [
    ("x", Plain, "Plain needs @dataclass(frozen=True) below the decorator"),
    ("x", Thawed, "Thawed needs @dataclass(frozen=True)"),
    ("x", Undecorated, "Undecorated needs @dataclass(frozen=True)"),
    ("x", Foreign, "Foreign is not derived from dyncomp's Method"),
    ("a b", Base, "'a b' is no name for a plugin; give letters"),
    ("", Base, "'' is no name"),
    ("chain{", Base, "'chain{' is no name"),
    ("chain{depth}", Base, "fills depth, which is no field of the class"),
]


@pytest.mark.parametrize(("name", "cls", "words"), UNFIT)
def test_unfit_class_or_name(name: str, cls: type, words: str) -> None:
    with pytest.raises(BrokenPlugin) as caught:
        register_method(name)(cls)
    assert words in str(caught.value)
    assert "test_register.py:" in str(caught.value)


def test_abstract_class_says_what_is_missing() -> None:
    from dyncomp.core import Method

    @dataclass(frozen=True)
    class Half(Method):
        pass

    with pytest.raises(BrokenPlugin, match="Half is incomplete; define build"):
        register_method("half")(Half)


def test_class_without_a_file_may_be_defined_again_and_never_matches_an_old_record() -> None:
    code = """
from dataclasses import dataclass
from dyncomp.registry import METHODS, register_method
from dyncomp.spec import Configurable
for _ in range(2):
    @register_method("typed")
    @dataclass(frozen=True)
    class Typed(Configurable):
        size: int = 1
    print(METHODS.entry("typed").source_hash)
print(METHODS.entry("typed").origin)
"""
    command = [sys.executable, "-W", "error", "-c", code]
    run = subprocess.run(command, capture_output=True, text=True, check=True, cwd=Path(__file__).parents[1])
    first, second, origin = run.stdout.splitlines()
    assert first != second
    assert origin == "registered in __main__:6"


CELL = """
from dataclasses import dataclass
from dyncomp.registry import register_method
from dyncomp.spec import Configurable

@register_method("cell")
@dataclass(frozen=True)
class Cell(Configurable):
    size: int = 1

    def double(self):
        return FACTOR * self.size
"""


def run_cell(monkeypatch: pytest.MonkeyPatch, number: int, text: str) -> str:
    """The source hash of a class defined in a notebook's cell, which is no file."""
    name = f"<cell-{number}>"
    module: Any = ModuleType("a_notebook")
    monkeypatch.setitem(sys.modules, "a_notebook", module)
    monkeypatch.setitem(linecache.cache, name, (len(text), None, text.splitlines(keepends=True), name))
    exec(compile(text, name, "exec"), vars(module))
    return METHODS.entry("cell").source_hash


def test_notebook_cell_is_hashed_by_its_text(monkeypatch: pytest.MonkeyPatch) -> None:
    texts = [CELL.replace("FACTOR", factor) for factor in ("2", "2", "3")]
    first, same, other = [run_cell(monkeypatch, number, text) for number, text in enumerate(texts)]
    assert first == same != other
    assert METHODS.entry("cell").origin == "registered in a_notebook:6"
