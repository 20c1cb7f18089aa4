"""Reading a plugin's text tells what running it would tell."""

from __future__ import annotations

import dataclasses
from textwrap import dedent

import pytest

from dyncomp._discover import read_entries
from dyncomp._scan import Found, scan
from dyncomp.registry import BACKBONES, DATASETS, METHODS, Registry
from dyncomp.spec import options_of

HEAD = """
from dataclasses import dataclass, field
from typing import Literal
import dyncomp, math
from dyncomp.registry import register_method as known_as, register_method
from dyncomp.spec import option
"""


def read(body: str) -> list[Found]:
    return list(scan((HEAD + dedent(body)).encode(), ["register_method"]).found)


def is_opaque(body: str) -> bool:
    return scan((HEAD + dedent(body)).encode(), ["register_method"]).opaque


def fields(body: str) -> list[tuple[str, str, object, str]] | None:
    """The options of a class with this body."""
    indented = "\n".join(f"    {line}" for line in dedent(body).strip().splitlines())
    (found,) = read(f"SIZE = 3\nGate = Literal['a', 'b']\n@register_method('x')\n@dataclass\nclass X:\n{indented}\n")
    return None if found.options is None else [(o.name, o.type, o.default, o.help) for o in found.options]


DECORATORS = [
    "register_method('x', paper='P')",
    "register_method(name='x', paper='P')",
    "dyncomp.register_method('x', paper='P')",
    "dyncomp.registry.register_method('x', paper='P')",
    "known_as('x', paper='P')",
    "register_method(NAME, paper=PAPER)",
    "register_method('''x''', paper=('P'))",
]


@pytest.mark.parametrize("decorator", DECORATORS)
def test_decorators_that_are_read(decorator: str) -> None:
    body = f"NAME = 'x'\nPAPER: str = 'P'\n@{decorator}\n@dataclass\nclass X:\n    'One.\\n\\nTwo.'\n"
    (found,) = read(body)
    assert (found.name, found.paper, found.class_name, found.summary) == ("x", "P", "X", "One.")
    assert found.line == HEAD.count("\n") + 3
    assert not is_opaque(body)


OPAQUE = [
    "@register_method('x' + str(1))\n@dataclass\nclass X: pass",
    "@register_method(*['x'])\n@dataclass\nclass X: pass",
    "for name in 'ab':\n    register_method(name)(object)",
    "if math.pi > 3:\n    @register_method('x')\n    @dataclass\n    class X: pass",
    "try:\n    @register_method('x')\n    class X: pass\nfinally:\n    pass",
    "def make():\n    return register_method('x')",
    "NAME = 'a'\nNAME = 'b'\n@register_method(NAME)\nclass X: pass",
]


@pytest.mark.parametrize("body", OPAQUE)
def test_what_only_running_tells(body: str) -> None:
    assert is_opaque(body)
    assert read(body) == []


@pytest.mark.parametrize("body", ["", "class X: pass", "@dataclass\nclass X: pass", "@other('x')\nclass X: pass"])
def test_nothing_is_registered(body: str) -> None:
    assert read(body) == []
    assert not is_opaque(body)


FIELDS = [
    ("size: int = option(8, 'help', ge=1)", [("size", "int", 8, "help")]),
    ("size: int = option(default=8, help='help')", [("size", "int", 8, "help")]),
    ("size: int = option(8, 'two '\n    'parts')", [("size", "int", 8, "two parts")]),
    ("size: int = option(SIZE, 'help')", [("size", "int", 3, "help")]),
    ("size: float = -1.5", [("size", "float", -1.5, "")]),
    ("size: int", [("size", "int", dataclasses.MISSING, "")]),
    ("gate: Gate = option('a', 'help')", [("gate", "Literal['a', 'b']", "a", "help")]),
    ("size: 'int | None' = option(None, 'help')", [("size", "int | None", None, "help")]),
    ("sizes: tuple[int, ...] = option((1, SIZE), 'help')", [("sizes", "tuple[int, ...]", (1, 3), "help")]),
    ("kind: typing.ClassVar[str] = f()\nsize: int = 1", [("size", "int", 1, "")]),
    ("constant = 3\nsize: int = 1\ndef f(self): ...", [("size", "int", 1, "")]),
    ("size: int = option(2 * 4, 'help')", None),
    ("size: float = option(math.pi, 'help')", None),
    ("size: int = option(8, 'help', ge=f())", None),
    ("size: int = field(default=8)", None),
    ("size: int = option(*[8, 'help'])", None),
    ("size: int = option(**{'default': 8})", None),
    ("_: KW_ONLY\nsize: int = 1", None),
    ("size: InitVar[int] = 1", None),
]


@pytest.mark.parametrize(("body", "wanted"), FIELDS)
def test_fields(body: str, wanted: list[tuple[str, str, object, str]] | None) -> None:
    assert fields(body) == wanted


def test_bounds_are_read() -> None:
    (found,) = read("@register_method('x')\n@dataclass\nclass X:\n    a: float = option(0.5, 'h', gt=0.0, le=1)\n")
    assert found.options is not None
    assert dataclasses.astuple(found.options[0].bounds) == (None, 0.0, 1, None)


INHERITED = [
    ("@dataclass\nclass Base:\n    a: int = 1\n    b: int = 2", ["a", "b", "c"]),
    ("class Base:\n    a: int = 1", None),
    ("from elsewhere import Base", None),
]


@pytest.mark.parametrize(("base", "names"), INHERITED)
def test_inherited_fields(base: str, names: list[str] | None) -> None:
    (found,) = read(f"{base}\n@register_method('x')\n@dataclass\nclass X(Base):\n    c: int = 3\n    b: int = 4\n")
    assert (found.options and [option.name for option in found.options]) == names
    if found.options:
        assert found.options[1].default == 4


def test_class_that_is_no_dataclass_tells_nothing() -> None:
    (found,) = read("@register_method('x')\nclass X:\n    size: int = 1\n")
    assert found.options is None


def test_reading_warns_of_nothing() -> None:
    (found,) = read("@register_method('x')\n@dataclass\nclass X:\n    '''A \\d of {}.'''\n".replace("{}", "it"))
    assert found.summary == r"A \d of it."


@pytest.mark.parametrize("source", [b"def", b"\x00", "é".encode("latin-1"), b"# coding: nonsense\n"])
def test_what_is_no_python(source: bytes) -> None:
    with pytest.raises((SyntaxError, ValueError)):
        scan(source, ["register_method"])


@pytest.mark.parametrize("registry", [METHODS, BACKBONES, DATASETS], ids=lambda registry: registry.plural)
def test_built_in_plugins_are_read_as_they_run(registry: Registry[object]) -> None:
    entries = registry.entries()
    assert entries
    for entry in entries:
        (read_entry,) = [one for one in read_entries(registry.kind, entry.source)[0] if one.name == entry.name]
        assert read_entry.known_options is not None, "listing would have to import it"
        cls = read_entry.load()
        ran = registry.entry(entry.name)
        assert (ran.load(), ran.options) == (cls, options_of(cls))
        assert read_entry.known_options == ran.options
        for key in ("summary", "paper", "origin", "place", "source_hash", "class_name"):
            assert getattr(read_entry, key) == getattr(ran, key)
