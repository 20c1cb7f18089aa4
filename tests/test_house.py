"""The house rules that a machine can hold: imports run one way, docstrings, and what no file may contain.

One test for each rule, over all files: what breaks it is listed.
"""

from __future__ import annotations

import ast
import importlib
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

import dyncomp

PACKAGE = Path(dyncomp.__file__).resolve().parent
ROOT = PACKAGE.parent
FILES = sorted(PACKAGE.rglob("*.py"))
NAMES = [str(file.relative_to(ROOT)) for file in FILES]

MOST_PARAMETERS = 6

# Which parts of the package a part may import, itself always included. `torch` stands for the library.
BASE = frozenset({"errors", "spec", "registry", "_version"})
MAY_IMPORT: dict[str, frozenset[str]] = {
    "errors": frozenset(),
    "_version": frozenset(),
    "spec": frozenset({"errors"}),
    "registry": frozenset({"errors", "spec"}),
    "listing": BASE,
    "_images": frozenset({"errors", "torch"}),
    "_cache": frozenset(),
    "_processes": frozenset(),
    "core": BASE | {"_images", "torch"},
    "ops": BASE | {"core", "torch"},
    "fast": frozenset({"errors", "_cache", "core", "ops", "torch"}),
    "data": BASE | {"_images", "_cache", "torch"},
    "backbones": BASE | {"core", "ops", "torch"},
    "methods": BASE | {"core", "ops", "torch"},
    "train": frozenset({"errors", "_version", "core", "data", "torch"}),
    "samples": frozenset(),
    "profile": frozenset({"errors", "_processes", "samples", "core", "ops", "fast", "data", "store", "torch"}),
    "_build": BASE | {"core", "fast", "torch"},
    "_checkpoint": BASE | {"core", "fast", "train", "_build", "torch"},
    "export": frozenset({"errors", "_version", "core", "fast", "torch"}),
    "store": frozenset({"errors", "_version"}),
    "report": frozenset({"errors", "samples", "store", "_version"}),
    "reporters": frozenset({"errors", "report", "store", "torch"}),
    "conformance": BASE | {"core", "fast", "_build", "train", "torch"},
    "bench": BASE
    | {
        "core",
        "fast",
        "data",
        "train",
        "samples",
        "profile",
        "store",
        "report",
        "reporters",
        "_build",
        "_checkpoint",
        "export",
        "torch",
    },
    "cli": BASE
    | {"_processes", "fast", "listing", "bench", "conformance", "profile", "store", "report", "reporters", "torch"},
    "": BASE | {"core", "ops", "fast", "profile", "bench", "report", "_build", "_checkpoint"},
}
# The private modules at the top belong to the public one that they were split from.
OWNERS = {
    "_facts": "_checkpoint",
    "_literal": "spec",
    "_fit": "spec",
    "_options": "spec",
    "_scan": "registry",
    "_source": "registry",
    "_entry": "registry",
    "_discover": "registry",
    "_registry": "registry",
}
# Public by its spelling, in a private module, and said by its name and its one line.
UNDESCRIBED = {("dyncomp/backbones/_weights.py", "unreadable")}
# Safe, because the package imports it at once: the function takes the module's place for good.
HIDDEN = {"dyncomp/report/__init__.py": {"words"}, "dyncomp/conformance/__init__.py": {"examples"}}
# Functions with more parameters than the house has patience for, and why.
MANY_PARAMETERS = {
    "dyncomp/train/loop.py:train": "what is trained, on what, how, and what was done before",
    "dyncomp/cli/benchmark.py:benchmark": "its parameters are the options of the command line",
    "dyncomp/cli/profile.py:profile": "its parameters are the options of the command line",
    "dyncomp/_build.py:build": "what a network is built from; all but two by keyword",
    "dyncomp/data/memory.py:in_memory": "three splits and what is known of them",
    "dyncomp/_options.py:option": "a default, a help text and four bounds by keyword",
}


@cache
def tree(name: str) -> ast.Module:
    return ast.parse((ROOT / name).read_text(encoding="utf-8"))


def part(module: str) -> str:
    """The part of the house that `dyncomp.x.y` belongs to."""
    name = module.removeprefix("dyncomp").removeprefix(".").partition(".")[0]
    return OWNERS.get(name, name)


def module_of(name: str) -> str:
    return name.removesuffix(".py").removesuffix("/__init__").replace("/", ".")


def imported(name: str) -> Iterator[str]:
    """Modules that a file imports, also inside functions and for the type checker only."""
    for node in ast.walk(tree(name)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name} imports relatively"
            module = node.module or ""
            # `from dyncomp import x` may mean a module x
            yield from (f"dyncomp.{alias.name}" for alias in node.names) if module == "dyncomp" else (module,)


def functions(name: str) -> Iterator[ast.FunctionDef]:
    yield from (node for node in ast.walk(tree(name)) if isinstance(node, ast.FunctionDef))


def test_imports_run_one_way() -> None:
    assert [wrong for name in NAMES for wrong in wrong_imports(name)] == []


def wrong_imports(name: str) -> Iterator[str]:
    own = part(module_of(name))
    allowed = MAY_IMPORT[own] | {own}
    for module in imported(name):
        library = module.partition(".")[0]
        asked = part(module) if library == "dyncomp" else "torch"
        if library in ("dyncomp", "torch", "torchvision", "safetensors") and asked not in allowed:
            yield f"{name} imports {module}"


def test_wrong_imports_are_recognised(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(MAY_IMPORT, "store", frozenset())
    assert [wrong for name in NAMES if name.startswith("dyncomp/store/") for wrong in wrong_imports(name)]


def test_the_fast_path_is_reached_by_its_door_alone() -> None:
    outside = [name for name in NAMES if part(module_of(name)) != "fast"]
    inside = [f"{name} imports {m}" for name in outside for m in imported(name) if m.startswith("dyncomp.fast.")]
    assert inside == []


def test_no_part_has_a_circle() -> None:
    graph = {module_of(name): set(modules_imported(name)) for name in NAMES}
    done: set[str] = set()
    while ready := {module for module, asked in graph.items() if module not in done and asked <= done}:
        done |= ready
    assert graph.keys() - done == set()  # these import one another, or a module that does


def modules_imported(name: str) -> Iterator[str]:
    """The files of the package that a file imports: the module that a name comes from, or is."""
    files = {module_of(file) for file in NAMES}
    for node in ast.walk(tree(name)):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("dyncomp"):
            asked = {f"{node.module}.{alias.name}" for alias in node.names} & files
            yield from asked or {node.module or ""}


def test_methods_import_no_sibling() -> None:
    methods = [name for name in NAMES if name.startswith("dyncomp/methods/")]
    siblings = {(name, module) for name in methods for module in imported(name) if module != module_of(name)}
    public = [f"{name} imports {module}" for name, module in siblings if re.match(r"dyncomp\.methods\.[^_]", module)]
    assert public == []


def test_functions_take_few_parameters() -> None:
    assert [wide for name in NAMES for wide in wide_functions(name)] == []


def wide_functions(name: str) -> Iterator[str]:
    for function in functions(name):
        count = len(arguments(function))
        if count > MOST_PARAMETERS and f"{name}:{function.name}" not in MANY_PARAMETERS:
            yield f"{name}:{function.name} takes {count} parameters"


def arguments(function: ast.FunctionDef) -> list[ast.arg]:
    """All but `self` and `cls`."""
    given = function.args
    return [a for a in (*given.posonlyargs, *given.args, *given.kwonlyargs) if a.arg not in ("self", "cls")]


def test_exceptions_are_still_needed() -> None:
    known = {f"{name}:{function.name}" for name in NAMES for function in functions(name)}
    assert set(MANY_PARAMETERS) <= known


def is_public(name: str) -> bool:
    return not name.startswith("_")


def undocumented(name: str) -> Iterator[str]:
    if not ast.get_docstring(tree(name)):
        yield "the module"
    for node in tree(name).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and is_public(node.name):
            if not ast.get_docstring(node):
                yield node.name
            if isinstance(node, ast.ClassDef):
                yield from undocumented_methods(node)


# What a base class describes; saying it again in every subclass would say nothing.
INHERITED = {"build", "stages", "loss", "forward", "decide", "dense", "sparse", "unit_parts", "least", "forced"}
INHERITED |= {"apply_expert", "forms"}


def undocumented_methods(node: ast.ClassDef) -> Iterator[str]:
    for method in node.body:
        if isinstance(method, ast.FunctionDef) and is_public(method.name) and not ast.get_docstring(method):
            described = node.bases and method.name in INHERITED
            if not described:
                yield f"{node.name}.{method.name}"


def test_everything_public_is_described() -> None:
    found = [(name, what) for name in NAMES for what in undocumented(name)]
    assert [pair for pair in found if pair not in UNDESCRIBED] == []


def test_every_signature_is_annotated() -> None:
    found = [
        f"{name}:{function.name}"
        for name in NAMES
        for function in functions(name)
        if function.returns is None or not all(argument.annotation for argument in arguments(function))
    ]
    assert found == []


PACKAGES = [name for name in NAMES if name.endswith("__init__.py")]


@pytest.mark.parametrize("name", PACKAGES)
def test_all_is_complete(name: str) -> None:
    module = importlib.import_module(module_of(name))
    imports = [node for node in ast.walk(tree(name)) if isinstance(node, ast.ImportFrom)]
    own = [alias.name for node in imports if (node.module or "").startswith("dyncomp") for alias in node.names]
    public = {alias for alias in own if is_public(alias) or alias == "__version__"}
    listed = getattr(module, "__all__", [])
    assert public <= set(listed)
    assert len(set(listed)) == len(listed)
    for entry in listed:
        getattr(module, entry)


@pytest.mark.parametrize("name", PACKAGES)
def test_no_module_hides_a_name_of_its_package(name: str) -> None:
    """Importing a submodule sets an attribute of its package, so a name of the same spelling may become a module."""
    module = importlib.import_module(module_of(name))
    submodules = {path.stem for path in (ROOT / name).parent.iterdir()}
    assert submodules & set(getattr(module, "__all__", [])) == HIDDEN.get(name, set())


def tracked_texts() -> dict[str, str]:
    """All tracked text files; those of the package where this is no checkout."""
    listed = subprocess.run(["git", "-C", str(ROOT), "ls-files", "-z"], capture_output=True, text=True, check=False)
    names = [name for name in listed.stdout.split("\0") if name] or NAMES
    texts = {}
    for name in names:
        try:
            texts[name] = (ROOT / name).read_text(encoding="utf-8")
        except (UnicodeDecodeError, FileNotFoundError, IsADirectoryError):
            continue  # a picture, or a file that somebody is moving
    return texts


# written in pieces, so that this file does not contain them
HOSTS = [f"{name}.{end}" for name, end in (("pypi", "org"), ("pythonhosted", "org"), ("anaconda", "org"))]
FORBIDDEN = {
    "pickle": r"\b(import|from) (c|cloud)?pickle\b|\bpickle\.(load|dump)",
    "weights that run code": r"\btorch\.load\((?![^)]*weights_only=True)",
    "a path of one machine": r"(?<![\w.~>{}*-])/(work|home|root|Users)/\w",
    "a package registry": "|".join(re.escape(host) for host in HOSTS),
}
ALLOWED = {
    ("pickle", "tests/cifar.py"): "makes the files that CIFAR is published as",
    ("pickle", "tests/data/test_cifar.py"): "makes files that only look like them",
    ("pickle", "tests/fast/test_tracked.py"): "a user may: it is shown that what comes back is tracked",
    ("pickle", "tests/test_saving.py"): "a user may: it is shown that networks come back",
    ("weights that run code", "tests/test_saving.py"): "a user may: it is shown that networks come back",
}


@pytest.mark.parametrize("what", FORBIDDEN)
def test_no_file_contains(what: str) -> None:
    pattern = re.compile(FORBIDDEN[what])
    found = [
        f"{name}:{number}: {line.strip()[:120]}"
        for name, text in tracked_texts().items()
        if not name.startswith("reports/")  # what came out on some machine
        if (what, name) not in ALLOWED
        for number, line in enumerate(text.splitlines(), start=1)
        if pattern.search(line)
    ]
    assert found == []


@pytest.mark.parametrize(
    ("what", "text"),
    [
        ("pickle", "import pic" + "kle"),
        ("weights that run code", "torch.lo" + "ad(path)"),
        ("a path of one machine", "open('/ho" + "me/someone/x')"),
        ("a package registry", "https://py" + "pi.org/simple"),
    ],
)
def test_forbidden_is_recognised(what: str, text: str) -> None:
    assert re.search(FORBIDDEN[what], text)


LIGHT = ("dyncomp", "dyncomp.errors", "dyncomp.spec", "dyncomp.registry", "dyncomp.listing", "dyncomp.store")
LIGHT += ("dyncomp.report", "dyncomp.bench", "dyncomp.cli")


def test_light_parts_do_not_import_torch() -> None:
    lines = [f"import {module}; assert 'torch' not in sys.modules, {module!r}" for module in LIGHT]
    walk = (
        "[importlib.import_module(f'{p.__name__}.{m.name}') for p in (s, r) for m in pkgutil.iter_modules(p.__path__)]"
    )
    lines += ["import importlib, pkgutil, dyncomp.store as s, dyncomp.report as r", walk]
    lines += ["assert 'torch' not in sys.modules, 'a module of store or report'"]
    subprocess.run([sys.executable, "-c", "\n".join(["import sys", *lines])], check=True, cwd=ROOT)


def test_no_two_test_files_share_a_name() -> None:
    names = [file.name for file in (ROOT / "tests").rglob("test_*.py")]
    assert sorted(set(names)) == sorted(names)  # pytest collects them as modules of that name
