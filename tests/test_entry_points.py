"""Plugins of installed packages: found without importing the package, harmless when broken."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from dyncomp.errors import NameCollision, UnknownName
from dyncomp.registry import PluginWarning, Registry
from dyncomp.spec import spec_of
from tests.plugins import NUMBERS, gadget, gadget_package, imported, install, registry_of, write

ORIGIN = "package other-gadgets 1.2 (entry point)"


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A package of gadgets with one of its own."""
    monkeypatch.syspath_prepend(str(tmp_path))
    name = gadget_package(tmp_path)
    write(tmp_path / name / "things" / "lamp.py", gadget("lamp", name))
    return name


@pytest.fixture
def other(tmp_path: Path, package: str) -> str:
    """Another package, with two gadgets in one module."""
    name = f"others_{next(NUMBERS)}"
    second = gadget("drum", package, cls="Drum").partition("option\n")[2].partition("\n")[2]
    write(tmp_path / name / "__init__.py", "")
    write(tmp_path / name / "plugs.py", gadget("horn", package, cls="Horn") + second)
    return name


def with_points(folder: Path, package: str, points: dict[str, str]) -> Registry[Any]:
    install(folder, "other-gadgets", points, group=f"{package}.gadgets")
    return registry_of(package)


@pytest.mark.parametrize("value", ["{other}.plugs", "{other}.plugs:Horn", "{other}.plugs:Drum [extra]"])
def test_found_without_an_import(tmp_path: Path, package: str, other: str, value: str) -> None:
    registry = with_points(tmp_path, package, {"any": value.format(other=other)})
    assert registry.names() == ["drum", "horn", "lamp"], "all that importing the module would register"
    entry = registry.entry("horn")
    assert (entry.origin, entry.summary) == (ORIGIN, "Does horn.")
    assert [option.default for option in entry.options] == [1]
    assert imported(other) == set()
    assert spec_of(registry.create("horn(size=4)")) == "horn(size=4)"
    assert imported(other) == {"plugs"}
    assert [registry.entry(name).origin for name in ("drum", "horn")] == [ORIGIN, ORIGIN]
    assert registry.names() == ["drum", "horn", "lamp"]
    assert registry.entry("lamp").origin == "built-in"


@pytest.mark.parametrize("value", ["{other}", "{other}:Horn"])
@pytest.mark.parametrize("already_imported", [False, True])
def test_class_from_elsewhere_is_found_by_importing(
    tmp_path: Path, package: str, other: str, value: str, already_imported: bool
) -> None:
    write(tmp_path / other / "__init__.py", "from .plugs import Horn\n")
    registry = with_points(tmp_path, package, {"any": value.format(other=other)})
    if already_imported:
        __import__(other)
    assert registry.entry("horn").origin == ORIGIN
    assert spec_of(registry.create("horn(size=2)")) == "horn(size=2)"


def test_two_points_to_one_class_are_one(tmp_path: Path, package: str, other: str) -> None:
    registry = with_points(tmp_path, package, {"a": f"{other}.plugs:Horn", "b": f"{other}.plugs"})
    assert registry.names() == ["drum", "horn", "lamp"]


BROKEN = [
    ("not_installed_anywhere.plugs:Horn", "ModuleNotFoundError: No module named 'not_installed_anywhere'"),
    ("{other}.absent:Horn", "ModuleNotFoundError: No module named '{other}.absent'"),
    ("{other}.plugs:Absent", "has no attribute 'Absent'"),
    ("{other}.syntax:Horn", "syntax.py:1: SyntaxError: "),
    ("{other}.fails:Horn", "fails.py:2: ValueError: on two lines"),
    ("{other}.empty", "{other}.empty registers no gadget; decorate it by @register_gadget"),
    ("{other}.empty:Horn", "{other}.empty:Horn registers no gadget"),
    ("{other}.plugs:", "is not module:Class"),
    ("what is this", "is not module:Class"),
]


@pytest.mark.parametrize(("value", "words"), BROKEN)
def test_broken_one_warns_once_and_harms_nobody(
    tmp_path: Path, package: str, other: str, value: str, words: str
) -> None:
    write(tmp_path / other / "syntax.py", "def broken(:\n")
    write(tmp_path / other / "fails.py", "import sys\nraise ValueError('on\\ntwo lines')\n")
    write(tmp_path / other / "empty.py", "class Horn: pass\n")
    points = {"bad": value.format(other=other), "good": f"{other}.plugs:Drum"}
    registry = with_points(tmp_path, package, points)
    with pytest.warns(PluginWarning) as caught:
        assert registry.names() == ["drum", "horn", "lamp"]
    (message,) = [str(warning.message) for warning in caught]
    assert words.format(other=other) in message
    assert "\n" not in message
    assert registry.names() == ["drum", "horn", "lamp"]
    assert spec_of(registry.create("drum")) == "drum"
    with pytest.raises(UnknownName, match="not read: "):
        registry.entry("absent")


def test_collision_with_a_built_in_is_raised_for_that_name_only(tmp_path: Path, package: str, other: str) -> None:
    write(tmp_path / other / "plugs.py", gadget("lamp", package))
    registry = with_points(tmp_path, package, {"any": f"{other}.plugs"})
    write(tmp_path / package / "things" / "bell.py", gadget("bell", package))
    with pytest.warns(PluginWarning, match="registered at two places"):
        assert registry.names() == ["bell", "lamp"]
    with pytest.raises(
        NameCollision, match=r"things/lamp.py:13 \(built-in\) and .*plugs.py:13 \(package other-gadgets"
    ):
        registry.create("lamp")
    assert spec_of(registry.create("bell")) == "bell"
