"""Loose plugin files: `include_path`."""

from __future__ import annotations

import errno
import sys
from pathlib import Path

import pytest

from dyncomp.errors import BrokenPlugin, NameCollision, UnknownName
from dyncomp.registry import BACKBONES, DATASETS, METHODS, PluginWarning, include_path
from dyncomp.spec import spec_of
from tests.plugins import HEAD, plugin, write

REGISTRIES = (METHODS, BACKBONES, DATASETS)


def names() -> list[list[str]]:
    return [registry.names() for registry in REGISTRIES]


def test_file_is_read_and_imported_when_made(tmp_path: Path) -> None:
    file = write(tmp_path / "mine.py", plugin("mine", body='size: int = option(2, "a size")'))
    (entry,) = include_path(file)
    assert (entry.name, entry.kind, entry.summary, entry.origin) == ("mine", "method", "Does mine.", str(file))
    assert entry == METHODS.entry("mine")
    assert entry.source.module not in sys.modules
    mine = METHODS.create("mine(size=3)")
    assert spec_of(mine) == "mine(size=3)"
    assert type(mine).__module__ == entry.source.module
    assert sys.modules[entry.source.module].Thing is type(mine)
    assert METHODS.entry("mine").origin == str(file)
    assert METHODS.create("mine(size=3)") == mine
    assert list(tmp_path.iterdir()) == [file], "the user's folder is left as it was"


def test_all_kinds_in_one_file(tmp_path: Path) -> None:
    second = plugin("my_net{depth}", kind="backbone", cls="Net", body="depth: int = 1").replace(HEAD, "")
    third = plugin("my_data", kind="dataset", cls="Data").replace(HEAD, "")
    entries = include_path(str(write(tmp_path / "all.py", plugin("mine") + second + third)))
    assert [(entry.kind, entry.name) for entry in entries] == [
        ("method", "mine"),
        ("backbone", "my_net{depth}"),
        ("dataset", "my_data"),
    ]
    assert spec_of(BACKBONES.create("my-net7")) == "my_net7"
    assert spec_of(DATASETS.create("my_data")) == "my_data"


def test_template_in_a_loop_is_found_by_running(tmp_path: Path) -> None:
    text = plugin("mine").replace("@register_method('mine', paper=\"arXiv:0000.00001\")\n", "")
    loop = "\nregister_method('my' + '_one')(Thing)\nregister_dataset('my' + '_two')(Thing)\n"
    file = write(tmp_path / "loop.py", text + loop)
    for _ in range(2):
        assert [entry.name for entry in include_path(file)] == ["my_one", "my_two"]
        assert [entry.origin for entry in include_path(file)] == [str(file)] * 2


def test_folder_with_broken_files_loads_the_others(tmp_path: Path) -> None:
    write(tmp_path / "a.py", "def broken(:\n")
    write(tmp_path / "b.py", plugin("mine"))
    write(tmp_path / "c.py", f"{HEAD}\nregister_method('a' + 'b')\nraise OSError('no such thing')\n")
    write(tmp_path / "helpers.py", "x = 1\n")
    write(tmp_path / "_private.py", "def broken(:\n")
    write(tmp_path / "notes.txt", "not Python\n")
    with pytest.warns(PluginWarning) as caught:
        (entry,) = include_path(tmp_path)
    assert entry.origin == str(tmp_path / "b.py")
    messages = [str(warning.message) for warning in caught]
    assert len(messages) == 2
    assert "a.py:1: SyntaxError: " in messages[0]
    assert "c.py:12: OSError: no such thing" in messages[1]
    for registry in REGISTRIES:
        with pytest.raises(UnknownName, match=r"not read: .*a.py:1: SyntaxError"):
            registry.entry("nowhere")


REFUSED = [
    ("def broken(:\n", r"bad.py:1: SyntaxError: "),
    ("x = 1\n\n  y = 2\n", r"bad.py:3: IndentationError: unexpected indent"),
    ("x = '\x00'\n", r"bad.py.*: .*null byte"),
    ("", r"bad.py registers nothing; put one of @register_method, @register_backbone"),
    ("x = 1\n", r"bad.py registers nothing"),
    (f"{HEAD}\nregister_method('x' + 'y')\n1 / 0\n", r"bad.py:12: ZeroDivisionError: division by zero"),
    (plugin("a b"), r"bad.py:12: 'a b' is no name for a plugin"),
    (plugin("net{depth}"), r"bad.py:12: 'net\{depth\}' fills depth, which is no field"),
]


@pytest.mark.parametrize(("text", "words"), REFUSED)
def test_named_file_that_is_broken(tmp_path: Path, text: str, words: str) -> None:
    before = names()
    with pytest.raises(BrokenPlugin, match=words) as caught:
        include_path(write(tmp_path / "bad.py", text))
    assert "\n" not in str(caught.value)
    assert names() == before


def test_missing_or_empty_place(tmp_path: Path) -> None:
    with pytest.raises(BrokenPlugin, match=r"nowhere.py: no such file or folder; give a Python file with"):
        include_path(tmp_path / "nowhere.py")
    with pytest.raises(BrokenPlugin, match="registers nothing"):
        include_path(tmp_path)


def test_file_that_cannot_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path) -> bytes:
        raise PermissionError(errno.EACCES, "Permission denied")

    file = write(tmp_path / "mine.py", plugin("mine"))
    monkeypatch.setattr(Path, "read_bytes", refuse)
    with pytest.raises(BrokenPlugin, match=r"mine.py: Permission denied"):
        include_path(file)


def test_file_that_cannot_be_imported_raises_when_made(tmp_path: Path) -> None:
    file = write(tmp_path / "late.py", plugin("late").replace("import sys\n", "import sys\nimport not_installed\n"))
    include_path(file)
    for _ in range(2):
        with pytest.raises(BrokenPlugin, match=r"late.py:5: ModuleNotFoundError: No module named 'not_installed'"):
            METHODS.create("late")


def test_collision_with_a_built_in_changes_nothing(tmp_path: Path) -> None:
    before = names()
    second = plugin("skipnet", cls="Skip").replace(HEAD, "")
    file = write(tmp_path / "skip.py", plugin("mine") + second)
    with pytest.raises(NameCollision, match=r"methods/skipnet.py:\d+ \(built-in\) and .*skip.py:\d+ \(.*skip.py\)"):
        include_path(file)
    assert names() == before
    assert METHODS.entry("skipnet").origin == "built-in"


def test_two_files_collide(tmp_path: Path) -> None:
    include_path(write(tmp_path / "one.py", plugin("mine")))
    with pytest.raises(NameCollision, match=r"one.py:\d+ .* and .*two.py:\d+"):
        include_path(write(tmp_path / "two.py", plugin("mine")))


def test_edited_file_is_read_again(tmp_path: Path) -> None:
    file = write(tmp_path / "mine.py", plugin("mine", body="size: int = 1"))
    (first,) = include_path(file)
    assert METHODS.create("mine").size == 1
    assert include_path(file)[0].source_hash == first.source_hash
    assert METHODS.create("mine").size == 1
    write(file, plugin("mine", cls="Renamed", body="size: int = 2"))
    (second,) = include_path(file)
    assert METHODS.create("mine").size == 2
    assert second.source_hash != first.source_hash
    write(file, plugin("yours"))
    include_path(file)
    assert "mine" not in METHODS.names()
    assert "yours" in METHODS.names()


def test_file_seen_by_another_path_is_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = write(tmp_path / "mine.py", plugin("mine"))
    (tmp_path / "link.py").symlink_to(file)
    include_path(file)
    include_path(tmp_path / "link.py")
    monkeypatch.chdir(tmp_path)
    (entry,) = include_path("mine.py")
    assert (entry.origin, entry.place) == ("mine.py", "mine.py:12")
