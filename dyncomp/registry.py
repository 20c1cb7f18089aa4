"""Methods, backbones and data sets by name, from wherever they are.

They come from the folders of this package (the folder is the list), from installed packages with
the entry point groups `dyncomp.methods`, `dyncomp.backbones` and `dyncomp.datasets`, from loose
files (`include_path`), and from decorators that run in a notebook or a test. Nothing is read before
the first question, and no plugin is imported before it is made.
"""

from __future__ import annotations

import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from dyncomp._discover import plugin_files
from dyncomp._entry import Entry
from dyncomp._registry import PluginWarning, Registry
from dyncomp._source import loose_source
from dyncomp.errors import BrokenPlugin

__all__ = [
    "BACKBONES",
    "DATASETS",
    "METHODS",
    "Entry",
    "PluginWarning",
    "Registry",
    "include_path",
    "register_backbone",
    "register_dataset",
    "register_method",
]

METHODS: Registry[Any] = Registry("method", "dyncomp.methods", "dyncomp.methods")
BACKBONES: Registry[Any] = Registry("backbone", "dyncomp.backbones", "dyncomp.backbones")
DATASETS: Registry[Any] = Registry("dataset", "dyncomp.data", "dyncomp.datasets")
_REGISTRIES = (METHODS, BACKBONES, DATASETS)

register_method = METHODS.register
register_backbone = BACKBONES.register
register_dataset = DATASETS.register


def include_path(path: str | Path) -> list[Entry]:
    """Registers the plugins of a loose file, or of all files of a folder; returns their entries.

    Raises NameCollision, and BrokenPlugin for a file that cannot be read or registers nothing. In a
    folder a broken file only warns (PluginWarning).
    """
    place = Path(path)
    if not place.exists():
        raise BrokenPlugin(f"{place}: no such file or folder; give a Python file with plugins, or a folder")
    entries = _include_folder(place) if place.is_dir() else _include_file(place)
    if not entries:
        decorators = ", ".join(f"@register_{registry.kind}" for registry in _REGISTRIES)
        raise BrokenPlugin(f"{place} registers nothing; put one of {decorators} above a class")
    return entries


def _include_folder(folder: Path) -> list[Entry]:
    entries: list[Entry] = []
    problems: list[str] = []
    for file in plugin_files(folder):
        try:
            entries += _include_file(file)
        except BrokenPlugin as error:
            problems.append(str(error))
    for registry in _REGISTRIES:  # the file is none's or all's, one warning is enough
        registry.report(problems, warn=registry is _REGISTRIES[-1])
    return entries


def _include_file(file: Path) -> list[Entry]:
    source = loose_source(file)
    with ExitStack() as stack:
        for registry in _REGISTRIES:
            stack.enter_context(registry.kept())
        complete = [registry.read(source) for registry in _REGISTRIES]
        if not all(complete):
            sys.modules.pop(source.module, None)  # so that its decorators run again
            source.run()
    return [entry for registry in _REGISTRIES for entry in registry.read_from(source)]
