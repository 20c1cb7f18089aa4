"""Plugin files written for a test: a package of gadgets with its own registry, and installed packages."""

from __future__ import annotations

import importlib
import itertools
import sys
from pathlib import Path
from textwrap import dedent

from dyncomp.registry import Registry

NUMBERS = itertools.count()
HEAD = """
from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import ClassVar, Literal

from dyncomp.registry import register_backbone, register_dataset, register_method
from dyncomp.spec import Configurable, option
"""


def write(path: Path, body: str) -> Path:
    """A file with `body`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(dedent(body), encoding="utf-8")
    return path


def plugin(name: str, *, kind: str = "method", cls: str = "Thing", body: str = "size: int = 1") -> str:
    """The text of a file that registers one class."""
    return f"""{HEAD}

@register_{kind}({name!r}, paper="arXiv:0000.00001")
@dataclass(frozen=True)
class {cls}(Configurable):
    \"\"\"Does {name}.

    And more.
    \"\"\"

    {body}
"""


def gadget(name: str, package: str, *, cls: str = "Thing", body: str = "size: int = 1") -> str:
    """The same for the registry of `package`."""
    text = plugin(name, kind="gadget", cls=cls, body=body)
    return text.replace(HEAD, f"{HEAD}from {package} import register_gadget\n")


def gadget_package(folder: Path) -> str:
    """Writes a package with a registry of gadgets and an empty folder for them; its unique name."""
    name = f"gadgets_{next(NUMBERS)}"
    write(
        folder / name / "__init__.py",
        f"""
        from dyncomp.registry import Registry
        REGISTRY = Registry("gadget", "{name}.things", "{name}.gadgets")
        register_gadget = REGISTRY.register
        """,
    )
    write(folder / name / "things" / "__init__.py", "")
    return name


def registry_of(package: str) -> Registry[object]:
    """The registry of a package of gadgets."""
    importlib.invalidate_caches()
    registry: Registry[object] = importlib.import_module(package).REGISTRY
    return registry


def install(folder: Path, name: str, points: dict[str, str], *, group: str) -> None:
    """Makes a distribution of version 1.2 with these entry points appear in a folder of sys.path."""
    info = folder / f"{name}-1.2.dist-info"
    write(info / "METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.2\n")
    lines = "".join(f"{key} = {value}\n" for key, value in points.items())
    write(info / "entry_points.txt", f"[{group}]\n{lines}")
    importlib.invalidate_caches()


def imported(package: str) -> set[str]:
    """The submodules of a package that have been imported, by their last name."""
    return {name.rpartition(".")[2] for name in sys.modules if name.startswith(f"{package}.")}
