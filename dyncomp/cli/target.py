"""What `dyncomp validate` is asked to look at: names and specs, a file, or an entry point. Torch is not needed for it.

A file or an entry point may import torch itself when it is loaded; names are looked up before that.
"""

from __future__ import annotations

import os
import re
from operator import attrgetter
from pathlib import Path

from dyncomp._source import Source, module_path
from dyncomp.errors import BrokenPlugin, DyncompError, InvalidValue, UnknownName
from dyncomp.registry import BACKBONES, DATASETS, METHODS, Entry, include_path
from dyncomp.spec import parse_specs

FORMS = "give a name or spec (skipnet(target=0.4)), a file (my_method.py) or an entry point (package.module:Class)"
_POINT = re.compile(r"\s*([A-Za-z_][\w.]*)\s*:\s*([A-Za-z_][\w.]*)\s*", re.ASCII)


def methods_of(target: str) -> list[str]:
    """The specs of the methods that a target stands for. Raises a DyncompError that says what to mend."""
    head = target.partition("(")[0].strip()
    if head.endswith(".py") or os.sep in head:
        if head.endswith(".py") and head != target.strip():
            raise InvalidValue(f"{target!r}: a file takes no hyperparameters; give --include-path {head} and a spec")
        return _of_file(Path(target.strip()))
    if point := _POINT.fullmatch(target):
        return _of_entry_point(point[1], point[2])
    if "." in head or ":" in head:
        raise InvalidValue(f"{target!r} is no target; {FORMS}")
    return _of_specs(target)


def _of_specs(text: str) -> list[str]:
    specs = parse_specs(text)
    for spec in specs:
        try:
            METHODS.check(spec)
        except UnknownName:
            _refuse_other_kinds(spec.name)
            raise
    return [str(spec) for spec in specs]


def _refuse_other_kinds(name: str) -> None:
    """Raises InvalidValue for the name of a backbone or a data set."""
    for registry, use in (
        (BACKBONES, f"a method, and {name} by --backbone"),
        (DATASETS, "a method, which needs no data"),
    ):
        try:
            registry.entry(name)
        except UnknownName:
            continue
        raise InvalidValue(f"{name} is a {registry.kind}, not a method; give {use}")


def _of_file(file: Path) -> list[str]:
    if file.is_dir():
        raise InvalidValue(f"{file} is a folder; give one of its files, or the folder by --include-path and a name")
    entries = include_path(file)
    methods = [entry for entry in entries if entry.kind == METHODS.kind]
    if not methods:
        others = ", ".join(f"{entry.kind} {entry.name}" for entry in entries)
        raise BrokenPlugin(f"{file} registers no method, only {others}; put @register_method above a method's class")
    return [spec for entry in methods for spec in _default_specs(entry)]


def _of_entry_point(module: str, attribute: str) -> list[str]:
    """The name of the method that the entry point's class is registered under."""
    path = module_path(module)
    source = Source(path.resolve() if path else None, module, f"entry point {module}:{attribute}")
    try:
        target = attrgetter(attribute)(source.run())
    except AttributeError as error:
        raise BrokenPlugin(f"{source.origin}: {error}; give a class of that module") from None
    except BrokenPlugin as error:
        raise BrokenPlugin(f"{error}; install the package, or give the file" if path is None else str(error)) from error
    for entry in METHODS.entries():
        if getattr(target, "registered_name", None) == entry.name and entry.load() is target:
            return _default_specs(entry)
    raise BrokenPlugin(f"{source.origin} registers no method; decorate the class by @register_method")


def _default_specs(entry: Entry) -> list[str]:
    """A method's name; its examples where the name alone is no spec."""
    examples = getattr(entry.load(), "examples", ())
    try:
        METHODS.check(entry.name)
    except DyncompError:
        if not examples:
            raise
        return list(examples)
    return [entry.name]
