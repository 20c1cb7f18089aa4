"""Which modules may hold plugins, and what their text registers."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path

from dyncomp._entry import Entry, found_entry
from dyncomp._scan import scan
from dyncomp._source import Source, module_path, seen_code
from dyncomp.errors import BrokenPlugin

__all__ = ["built_in_sources", "entry_point_sources", "plugin_files", "read_entries"]


def built_in_sources(package: str) -> Iterator[Source]:
    """The modules of a package's folder."""
    place = module_path(package)
    folder = place.parent if place and place.name == "__init__.py" else place
    for file in plugin_files(folder) if folder else ():
        yield Source(file.resolve(), f"{package}.{file.stem}", "built-in")


def plugin_files(folder: Path) -> list[Path]:
    """A folder's Python files but the private ones."""
    return sorted(file for file in folder.glob("*.py") if not file.name.startswith(("_", ".")))


def entry_point_sources(group: str, problems: list[str]) -> Iterator[tuple[Source, str]]:
    """The modules that installed packages name, each with the object wanted ("": any).

    What no module can be made of is added to `problems`.
    """
    for point in sorted(entry_points(group=group), key=lambda point: point.name):
        origin = _origin(point)
        match = point.pattern.match(point.value)
        if match is None:
            text = f"{origin}: {point.name} = {point.value!r} is not module:Class"
            problems.append(text)
            continue
        path = module_path(point.module)
        file = path.resolve() if path and path.suffix == ".py" else None
        yield Source(file, point.module, origin), point.attr or ""


def read_entries(kind: str, source: Source) -> tuple[list[Entry], bool]:
    """What a module's text registers, and whether that is all.

    Raises BrokenPlugin.
    """
    text = source.read()
    try:
        result = scan(text, [f"register_{kind}"])
    except (SyntaxError, ValueError) as error:
        raise BrokenPlugin(source.describe(error)) from None
    seen = seen_code(source)
    entries = [found_entry(kind, found, source, seen) for found in result.found]
    return entries, not result.opaque


def _origin(point: EntryPoint) -> str:
    if point.dist is None:
        return f"entry point {point.name}"
    return f"package {point.dist.name} {point.dist.version} (entry point)"
