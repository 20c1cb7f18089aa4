"""The registry: what is found, what is imported when, and what a wrong name or option is told."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from dyncomp._source import hash_of_code, loose_source, seen_code
from dyncomp.errors import BrokenPlugin, DyncompError, InvalidSpec, InvalidValue, NameCollision, UnknownName
from dyncomp.registry import PluginWarning, Registry
from dyncomp.spec import Spec, spec_of
from tests.plugins import gadget, gadget_package, imported, registry_of, write

NET = 'depth: int = option(8, "layers", ge=2)\n    width: float = option(1.0, "factor")'


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A package of gadgets: one plain, one template."""
    monkeypatch.syspath_prepend(str(tmp_path))
    name = gadget_package(tmp_path)
    write(tmp_path / name / "things" / "lamp.py", gadget("lamp", name, body='watts: int = option(5, "power", ge=1)'))
    write(tmp_path / name / "things" / "chain.py", gadget("chain{depth}", name, body=NET))
    return name


@pytest.fixture
def registry(package: str) -> Registry[Any]:
    return registry_of(package)


def folder_of(tmp_path: Path, package: str) -> Path:
    return tmp_path / package / "things"


def test_folder_is_the_list_and_nothing_is_imported(registry: Registry[Any], package: str) -> None:
    assert registry.names() == ["chain{depth}", "lamp"]
    lamp = registry.entry("lamp")
    assert (lamp.kind, lamp.summary, lamp.paper, lamp.origin) == (
        "gadget",
        "Does lamp.",
        "arXiv:0000.00001",
        "built-in",
    )
    assert lamp.place.endswith("things/lamp.py:13")
    assert [(one.name, one.default, one.help, one.bounds.ge) for one in lamp.options] == [("watts", 5, "power", 1)]
    assert registry.check("lamp(watts=3)") == lamp
    assert imported(package) == set()


def test_only_what_is_made_is_imported(registry: Registry[Any], package: str) -> None:
    lamp = registry.create("lamp(watts=3)")
    assert lamp.watts == 3
    assert imported(package) == {"things", "lamp"}
    assert type(lamp) is registry.entry("lamp").load() is type(registry.create("lamp"))
    assert registry.entry("lamp").origin == "built-in"


def test_files_without_plugins_have_none(registry: Registry[Any], tmp_path: Path, package: str) -> None:
    write(folder_of(tmp_path, package) / "helpers.py", "raise RuntimeError('nobody imports me')")
    write(folder_of(tmp_path, package) / "_private.py", gadget("private", package))
    assert registry.names() == ["chain{depth}", "lamp"]


CREATED = [
    ("lamp", "lamp"),
    ("lamp(watts=5)", "lamp"),
    ("lamp(watts=7)", "lamp(watts=7)"),
    ("chain38", "chain38"),
    ("chain38(width=2)", "chain38(width=2.0)"),
    ("chain8(width=1.0)", "chain8"),
]


@pytest.mark.parametrize(("text", "canonical"), CREATED)
def test_created_plugin_knows_its_spec(registry: Registry[Any], text: str, canonical: str) -> None:
    instance = registry.create(text)
    assert spec_of(instance) == canonical
    assert registry.create(canonical) == instance


def test_spec_objects_and_hyphens(registry: Registry[Any], tmp_path: Path, package: str) -> None:
    write(folder_of(tmp_path, package) / "red.py", gadget("red-lamp", package))
    assert registry.create(Spec("lamp", {"watts": 9})).watts == 9
    for name in ("red-lamp", "red_lamp"):
        assert spec_of(registry.create(name)) == "red_lamp"
        assert registry.entry(name).name == "red_lamp"


REFUSED = [
    ("lampp", UnknownName, "unknown gadget 'lampp': did you mean lamp? `dyncomp list gadgets` shows them all"),
    ("chain", UnknownName, "did you mean chain{depth}?"),
    ("my_chain8", UnknownName, "known: chain{depth}, lamp."),
    ("chain08", UnknownName, "did you mean chain{depth}?"),
    ("chain8x", UnknownName, "did you mean chain{depth}?"),
    ("zzz", UnknownName, "known: chain{depth}, lamp."),
    ("lamp(wats=1)", UnknownName, "unknown hyperparameter of lamp 'wats': did you mean watts? `dyncomp list gadgets`"),
    ("chain8(depth=9)", InvalidSpec, "chain8: depth stands in the name already; leave out depth="),
    ("chain8(with=9)", UnknownName, "did you mean width?"),
    ("chain1", InvalidValue, "chain1: depth=1 is below 2"),
    ("lamp(watts=0)", InvalidValue, "lamp: watts=0 is below 1; give an integer of at least 1"),
    ("lamp(watts=[1, 2])", InvalidSpec, "2 specs"),
    ("lamp(watts=x)", InvalidSpec, "put it in quotes"),
]


@pytest.mark.parametrize(("text", "error", "words"), REFUSED)
def test_refused_on_one_line(registry: Registry[Any], text: str, error: type[DyncompError], words: str) -> None:
    with pytest.raises(error) as caught:
        registry.create(text)
    assert type(caught.value) is error
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_unknown_option_is_found_before_the_import(registry: Registry[Any], package: str) -> None:
    with pytest.raises(UnknownName):
        registry.create("lamp(colour=1)")
    assert imported(package) == set()


def test_plugin_without_options_says_so(registry: Registry[Any], tmp_path: Path, package: str) -> None:
    write(folder_of(tmp_path, package) / "bare.py", gadget("bare", package, body="pass"))
    with pytest.raises(UnknownName, match="bare has no hyperparameters"):
        registry.create("bare(size=1)")


def test_option_without_default_must_be_given(registry: Registry[Any], tmp_path: Path, package: str) -> None:
    write(folder_of(tmp_path, package) / "must.py", gadget("must", package, body="size: int"))
    with pytest.raises(InvalidSpec, match="must: size has no default; give size="):
        registry.create("must")
    assert spec_of(registry.create("must(size=3)")) == "must(size=3)"


def test_exact_name_and_longer_template_come_first(registry: Registry[Any], tmp_path: Path, package: str) -> None:
    write(folder_of(tmp_path, package) / "chain8.py", gadget("chain8", package))
    write(folder_of(tmp_path, package) / "cifar.py", gadget("cifar_chain{depth}", package, body=NET))
    write(
        folder_of(tmp_path, package) / "wide.py",
        gadget("chain{depth}_{width}", package, body="depth: int\n    width: int"),
    )
    names = ["chain8", "chain9", "cifar_chain9", "chain16_8"]
    assert [registry.entry(name).name for name in names] == [
        "chain8",
        "chain{depth}",
        "cifar_chain{depth}",
        "chain{depth}_{width}",
    ]
    assert [spec_of(registry.create(name)) for name in names] == names


def test_computed_default_imports_that_one_only(registry: Registry[Any], tmp_path: Path, package: str) -> None:
    body = 'size: int = option(2 * 4, "computed")'
    write(folder_of(tmp_path, package) / "computed.py", gadget("computed", package, body=body))
    assert registry.entry("computed").summary == "Does computed."
    assert imported(package) == set()
    assert [one.default for one in registry.entry("computed").options] == [8]
    assert imported(package) == {"things", "computed"}


def test_registration_in_a_loop_is_found_by_running_it(registry: Registry[Any], tmp_path: Path, package: str) -> None:
    text = gadget("base", package).replace("@register_gadget('base', paper=\"arXiv:0000.00001\")\n", "")
    loop = "\nfor name in ('one', 'two'):\n    register_gadget(name)(type(name, (Thing,), {}))\n"
    loop = loop.replace("type(name, (Thing,), {})", "dataclass(frozen=True)(type(name, (Thing,), {}))")
    write(folder_of(tmp_path, package) / "loop.py", text + loop)
    assert registry.names() == ["chain{depth}", "lamp", "one", "two"]
    assert registry.entry("two").origin == "built-in"
    assert imported(package) == {"things", "loop"}
    assert spec_of(registry.create("two(size=4)")) == "two(size=4)"


BROKEN = [
    ("def broken(:\n", "bad.py:1: SyntaxError: "),
    ("x = '\x00'\n", "bad.py: "),
    ("register_gadget('loop')\nraise RuntimeError('no\\nway')\n", "NameError: name 'register_gadget' is not defined"),
    ("import sys\nfrom PACKAGE import register_gadget\nregister_gadget('a')\nsys.exit(3)\n", "bad.py:4: SystemExit: 3"),
]


@pytest.mark.parametrize(("text", "words"), BROKEN)
def test_broken_plugin_warns_once_and_harms_nobody(
    registry: Registry[Any], tmp_path: Path, package: str, text: str, words: str
) -> None:
    write(folder_of(tmp_path, package) / "bad.py", text.replace("PACKAGE", package))
    with pytest.warns(PluginWarning) as caught:
        assert registry.names() == ["chain{depth}", "lamp"]
    assert len(caught) == 1
    assert words in str(caught[0].message)
    assert "\n" not in str(caught[0].message)
    assert registry.create("lamp").watts == 5
    with pytest.raises(UnknownName) as unknown:
        registry.entry("bad")
    assert words in str(unknown.value)


def test_plugin_that_fails_on_import_is_listed_and_raises_when_made(
    registry: Registry[Any], tmp_path: Path, package: str
) -> None:
    text = gadget("late", package).replace("import sys\n", "import sys\nimport not_installed_anywhere\n")
    write(folder_of(tmp_path, package) / "late.py", text)
    assert "late" in registry.names()
    with pytest.raises(BrokenPlugin, match=r"late.py:5: ModuleNotFoundError: No module named 'not_installed_anywhere'"):
        registry.create("late")
    assert registry.create("lamp").watts == 5


def test_two_files_with_one_name(registry: Registry[Any], tmp_path: Path, package: str) -> None:
    write(folder_of(tmp_path, package) / "other.py", gadget("lamp", package, cls="Other"))
    with pytest.warns(PluginWarning, match="registered at two places"):
        assert registry.names() == ["chain{depth}", "lamp"]
    assert spec_of(registry.create("chain9")) == "chain9"
    for _ in range(2):
        with pytest.raises(
            NameCollision, match=r"things/lamp.py:13 \(built-in\) and .*things/other.py:13 \(built-in\)"
        ):
            registry.create("lamp")


def test_one_file_with_one_name_twice(registry: Registry[Any], tmp_path: Path, package: str) -> None:
    second = gadget("twice", package, cls="Other").partition("option\n")[2]
    write(folder_of(tmp_path, package) / "twice.py", gadget("twice", package) + second.replace("from", "# from", 1))
    with pytest.warns(PluginWarning, match=r"twice.py:13 .* and .*twice.py:25"):
        registry.names()


def test_source_hash_follows_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    hashes = []
    for body in ("size: int = 1", "size: int = 2", "size: int = 1"):
        name = gadget_package(tmp_path)
        write(tmp_path / name / "things" / "a.py", gadget("a", "somewhere", body=body))
        hashes.append(registry_of(name).entry("a").source_hash)
    assert hashes[0] == hashes[2] != hashes[1]
    assert all(len(one) == 16 and int(one, 16) >= 0 for one in hashes)


def test_source_hash_follows_the_code_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Comments, docstrings, empty lines and places in the package that names are imported from train nothing anew."""
    plain = gadget("a", "somewhere", body="size: int = 1")
    same = {
        "a comment": plain + "# said\n",
        "a docstring": plain.replace("    size: int = 1", '    """What ä gadget is."""\n\n    size: int = 1  # ö'),
        "an empty line": plain.replace("    size: int = 1", "\n    size: int = 1"),
        "a moved import": "from dyncomp.core import Net\n" + plain,
    }
    other = {
        "a value": plain.replace("size: int = 1", "size: int = 2"),
        "a text that is used": plain.replace("size: int = 1", 'size: str = "1"'),
        "another name": "from dyncomp.core import Op as Net\n" + plain,
        "no Python": plain + "=\n",
    }
    moved = "from dyncomp.somewhere import (\n    Net,\n)\n" + plain
    assert hash_of(tmp_path, moved) == hash_of(tmp_path, same.pop("a moved import"))
    assert {what for what, text in same.items() if hash_of(tmp_path, text) != hash_of(tmp_path, plain)} == set()
    assert {what for what, text in other.items() if hash_of(tmp_path, text) == hash_of(tmp_path, plain)} == set()
    assert hash_of(tmp_path, other["another name"]) != hash_of(tmp_path, moved)


def hash_of(folder: Path, text: str) -> str:
    """Of a plugin's file with that text, which is not run."""
    return hash_of_code(seen_code(loose_source(write(folder / "plugin.py", text))))


def test_temporary_forgets(registry: Registry[Any]) -> None:
    before = registry.names()
    with registry.temporary():
        registry.register("lamp_two")(type(registry.create("lamp")))
        assert "lamp_two" in registry.names()
    assert registry.names() == before
