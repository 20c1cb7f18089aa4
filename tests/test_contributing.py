"""What a contributor needs: scripts that CI runs, documents that name what there is, one version everywhere."""

from __future__ import annotations

import os
import re
from importlib.resources import files
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import pytest

import dyncomp

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
SCRIPTS = ("check", "fix", "test")


def text(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


@pytest.mark.parametrize("name", SCRIPTS)
def test_scripts_can_be_run(name: str) -> None:
    assert os.access(ROOT / "scripts" / name, os.X_OK)
    assert text(f"scripts/{name}").startswith("#!/usr/bin/env bash\n")
    assert "set -euo pipefail" in text(f"scripts/{name}")
    assert f"scripts/{name}" in text("CONTRIBUTING.md")


def test_ci_and_commits_call_the_scripts() -> None:
    assert "scripts/check" in text(".ci/run").splitlines()
    assert "scripts/check" in text(".pre-commit-config.yaml")
    assert "scripts/fix" in text(".pre-commit-config.yaml")


def test_the_tests_are_run_as_the_readme_says() -> None:
    (command,) = re.findall(r"^python3 -m venv .*/bin/(python -m pytest.*)$", text("README.md"), re.MULTILINE)
    assert f'{command} "$@"' in text("scripts/test").splitlines()


def test_the_version_is_the_same_everywhere() -> None:
    assert re.findall(r"^version: (\S+)$", text("CITATION.cff"), re.MULTILINE) == [dyncomp.__version__]
    assert re.findall(r"^## \[([^]]+)\]", text("CHANGELOG.md"), re.MULTILINE)[0] == dyncomp.__version__


def test_the_package_says_that_it_is_typed() -> None:
    assert (files("dyncomp") / "py.typed").is_file()


def pages() -> dict[str, str]:
    """The pages of the documents by the name that a toctree gives them."""
    found = [*DOCS.rglob("*.md"), *DOCS.rglob("*.rst")]
    return {str(page.relative_to(DOCS).with_suffix("")): page.read_text(encoding="utf-8") for page in found}


def test_every_page_is_in_a_toctree() -> None:
    known, listed = pages(), ["index"]
    for name, page in known.items():
        blocks = re.findall(r"```\{toctree\}(.*?)```", page, re.DOTALL)
        blocks += re.findall(r"^\.\. toctree::\n(.*?)(?=^\S|\Z)", page, re.DOTALL | re.MULTILINE)
        entries = re.findall(r"^\s*([\w/-]+)\s*$", "\n".join(blocks), re.MULTILINE)
        listed += [str(Path(name).parent / entry) for entry in entries]
    assert sorted(listed) == sorted(known)


@pytest.mark.parametrize(
    ("docstring", "shown"),
    [
        ("`net(x)` and `Stage` of `net`s, 2 * x", "``net(x)`` and :py:obj:`.Stage` of :py:obj:`net`\\ s, 2 \\* x"),
        ("* a star of a list, T^2 * KL(a || b)", "* a star of a list, T^2 \\* KL(a \\|\\| b)"),
        ("A formula:\n\n    a = b * c", "A formula:\n\n::\n\n        a = b * c"),
        ("Raises:\n    DataNotFound: none.", ":raises DataNotFound: none."),
    ],
)
def test_docstrings_are_shown_as_they_are_written(docstring: str, shown: str) -> None:
    spec = spec_from_file_location("_docstrings", DOCS / "_docstrings.py")
    assert spec is not None and spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    assert module.converted(docstring) == shown


def test_every_public_name_is_on_the_api_page() -> None:
    named = set(re.findall(r"dyncomp(?:\.\w+)*\.(\w+)", pages()["api/index"]))
    assert set(dyncomp.__all__) - named == set()


def test_every_part_of_the_package_is_in_the_picture() -> None:
    page = pages()["architecture"]
    (picture,) = re.findall(r"```text\n(errors.*?)```", page, re.DOTALL)
    parts = {path.parent.name for path in (ROOT / "dyncomp").glob("*/__init__.py")}
    assert {part for part in parts if not re.search(rf"\b{part}\b", picture)} == set()


def test_modules_that_the_architecture_names_exist() -> None:
    known = {path.name for folder in ("dyncomp", "tests") for path in (ROOT / folder).rglob("*.py")}
    named = set(re.findall(r"`(?:[\w/]+/)?(\w+\.py)`", pages()["architecture"]))
    assert named
    assert named - known == set()
