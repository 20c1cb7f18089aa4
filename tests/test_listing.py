"""`dyncomp list`: every plugin with what its text tells, at any width, without torch."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

from dyncomp.errors import UnknownName
from dyncomp.listing import KINDS, listing, print_listing, render_listing
from dyncomp.registry import BACKBONES, DATASETS, METHODS, include_path
from tests.plugins import plugin, write

REGISTRIES = {"methods": METHODS, "backbones": BACKBONES, "datasets": DATASETS}
BODY = """size: int
    rate: float | None = option(None, "how much of it, told at length so that the line has to be broken", gt=0, lt=1)
    mode: Literal["a", "b"] = option("a", "which way")
    pair: tuple[int, ...] = (1, 2)"""
BLOCK = """\
my_net{depth}
    Does my_net{depth}.
    arXiv:0000.00001 · mine.py
      {depth}      layers [int, >= 2]
      size=...     [int]
      rate=None    how much of it, told at length so
                   that the line has to be broken
                   [float | None, > 0, < 1]
      mode="a"     which way ["a", "b"]
      pair=(1, 2)  [tuple[int, ...]]
"""


@pytest.fixture(autouse=True)
def origin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A loose backbone with options of all sorts; its path as it was given."""
    monkeypatch.chdir(tmp_path)
    body = 'depth: int = option(8, "layers", ge=2)\n    ' + BODY
    write(tmp_path / "mine.py", plugin("my_net{depth}", kind="backbone", body=body))
    include_path("mine.py")
    return "mine.py"


def test_kinds_are_the_registries() -> None:
    assert tuple(REGISTRIES) == KINDS


@pytest.mark.parametrize("kind", KINDS)
def test_every_plugin_has_a_row(kind: str) -> None:
    rows = listing(kind)
    assert [row.name for row in rows] == REGISTRIES[kind].names()
    assert all(row.summary and row.origin and not row.problem for row in rows)
    text = render_listing([kind])
    for row in rows:
        assert row.paper in text
        assert f"\n{row.name}\n" in text
        for option in row.options:
            assert option.name in text


def test_unknown_kind() -> None:
    with pytest.raises(UnknownName, match=r"unknown kind of plugin 'method': did you mean methods"):
        render_listing(["method"])


def test_block_of_a_plugin() -> None:
    assert f"\n\n{BLOCK}\n" in render_listing(["backbones"], width=52)


@pytest.mark.parametrize("width", [80, 100])
def test_lines_keep_to_the_width(width: int) -> None:
    lines = render_listing(width=width).splitlines()
    assert max(map(len, lines)) <= width
    assert [line for line in lines if line.endswith(")") and line.split()[0] in KINDS] == [
        f"{kind} ({len(registry.names())})" for kind, registry in REGISTRIES.items()
    ]


def test_json_tells_the_same(origin: str) -> None:
    read = json.loads(render_listing(["methods", "backbones"], as_json=True))
    assert list(read) == ["methods", "backbones"]
    (mine,) = [row for row in read["backbones"] if row["origin"] == origin]
    assert (mine["name"], mine["summary"], mine["paper"]) == (
        "my_net{depth}",
        "Does my_net{depth}.",
        "arXiv:0000.00001",
    )
    assert mine["options"][1:4] == [
        {"name": "size", "type": "int", "help": ""},
        {
            "name": "rate",
            "type": "float | None",
            "default": None,
            "help": "how much of it, told at length so that the line has to be broken",
            "gt": 0,
            "lt": 1,
        },
        {"name": "mode", "type": "Literal['a', 'b']", "default": "a", "help": "which way"},
    ]
    assert "problem" not in mine


def test_plain_lines_when_it_is_no_terminal() -> None:
    file = io.StringIO()
    print_listing(Console(file=file, width=20), ["methods"])
    assert file.getvalue() == render_listing(["methods"]) + "\n"


def test_colours_on_a_terminal_change_no_word() -> None:
    file = io.StringIO()
    console = Console(file=file, width=80, force_terminal=True, color_system="standard", record=True)
    print_listing(console, ["backbones"])
    assert "\x1b[" in file.getvalue()
    assert console.export_text() == render_listing(["backbones"], width=80) + "\n"


def test_plugin_whose_options_cannot_be_read_is_listed(tmp_path: Path) -> None:
    text = plugin("odd", body='size: int = option(int("x"), "computed")')
    include_path(write(tmp_path / "odd.py", text))
    (row,) = [row for row in listing("methods") if row.name == "odd"]
    assert "odd.py:20: ValueError: invalid literal for int()" in row.problem
    assert row.problem in " ".join(render_listing(["methods"], width=1000).split())
    assert json.loads(render_listing(["methods"], as_json=True))["methods"]


QUESTIONS = """
import sys
from dyncomp.listing import render_listing
from dyncomp.registry import BACKBONES, DATASETS, METHODS
render_listing(), render_listing(as_json=True)
METHODS.check("skipnet(target=0.3)"), BACKBONES.check("cifar_resnet38"), DATASETS.check("digits")
print([name for name in sys.modules if name.split(".")[0] == "torch" or name.startswith("dyncomp.methods")])
"""


def test_questions_import_no_torch_and_no_plugin() -> None:
    command = [sys.executable, "-W", "error", "-c", QUESTIONS]
    root = Path(__file__).parents[1]
    assert subprocess.run(command, capture_output=True, text=True, check=True, cwd=root).stdout == "[]\n"
