"""One registered plugin: what is known of it before it is imported, and how it is."""

from __future__ import annotations

import dataclasses
import inspect
import re
from collections.abc import Collection
from dataclasses import dataclass, field
from functools import cached_property

from dyncomp._options import Option, options_of
from dyncomp._scan import Found, first_line
from dyncomp._source import Source, hash_of_code, seen_code, show, source_of
from dyncomp.errors import BrokenPlugin
from dyncomp.spec import Configurable

__all__ = ["Entry", "entry_of", "found_entry"]

_NAME = re.compile(r"[A-Za-z]\w*(\{[a-z_]+\}\w*)*", re.ASCII)
_FIELD = re.compile(r"\{([a-z_]+)\}")


@dataclass(frozen=True)
class Entry:
    """A name, and what stands behind it.

    `name` may be a template, "cifar_resnet{depth}"; `origin` says in words where it is from,
    `place` is "file:line"; `seen` is the text of the plugin's file as it was found.
    """

    kind: str
    name: str
    summary: str
    paper: str
    place: str
    class_name: str
    source: Source
    seen: bytes = field(repr=False)
    known_options: tuple[Option, ...] | None = field(default=None, repr=False)
    loaded: type | None = field(default=None, repr=False)

    @property
    def origin(self) -> str:
        """Built-in, which package, the path of a loose file, or where it was registered by hand."""
        return self.source.origin

    @cached_property
    def source_hash(self) -> str:
        """Changes with the code in the plugin's file; made when it is asked for, since it takes milliseconds."""
        return hash_of_code(self.seen)

    @property
    def options(self) -> tuple[Option, ...]:
        """The hyperparameters; the plugin is imported only if its text does not tell them.

        Raises BrokenPlugin.
        """
        return options_of(self.load()) if self.known_options is None else self.known_options

    def load(self) -> type:
        """The class, imported if need be. Raises BrokenPlugin."""
        if self.loaded is not None:
            return self.loaded
        module = self.source.run()
        cls: type | None = getattr(module, self.class_name, None)
        if cls is None:
            raise BrokenPlugin(f"{self.place}: {self.class_name} is gone after the import")
        return cls

    def same_place(self, other: Entry) -> bool:
        """Whether both are one class: read and imported, or imported again."""
        if self.class_name != other.class_name:
            return False
        mine, theirs = self.source, other.source
        return mine.module == theirs.module or (mine.file is not None and mine.file == theirs.file)

    def match(self, name: str) -> dict[str, int] | None:
        """What `name` fills into this template's fields; None when it is another name."""
        pattern = "".join(
            f"(?P<{part}>0|[1-9][0-9]*)" if index % 2 else re.escape(part)
            for index, part in enumerate(_FIELD.split(self.name))
        )
        found = re.fullmatch(pattern, name, re.ASCII)
        return {key: int(digits) for key, digits in found.groupdict().items()} if found else None


def found_entry(kind: str, found: Found, source: Source, seen: bytes) -> Entry:
    """The entry of a registration read from a file. Raises BrokenPlugin for an impossible name."""
    place = f"{show(source.file) if source.file else source.module}:{found.line}"
    fields = None if found.options is None else [option.name for option in found.options]
    return Entry(
        kind=kind,
        name=_checked_name(found.name, place, fields),
        summary=found.summary,
        paper=found.paper,
        place=place,
        class_name=found.class_name,
        source=source,
        seen=seen,
        known_options=found.options,
    )


def entry_of(kind: str, name: str, paper: str, cls: type, line: int) -> Entry:
    """The entry of a class that a decorator was called with. Raises BrokenPlugin."""
    source = source_of(cls, line)
    place = f"{show(source.file) if source.file else source.module}:{line}"
    _check_class(cls, place)
    fields = [field.name for field in dataclasses.fields(cls)]
    generated = (cls.__doc__ or "").startswith(f"{cls.__name__}(")  # by @dataclass, in place of none
    return Entry(
        kind=kind,
        name=_checked_name(name, place, fields),
        summary="" if generated else first_line(cls.__doc__),
        paper=paper,
        place=place,
        class_name=cls.__qualname__,
        source=source,
        seen=seen_code(source, cls),
        loaded=cls,
    )


def _checked_name(name: str, place: str, fields: Collection[str] | None) -> str:
    """The name with underscores; `fields` are those that a template may fill."""
    normal = name.replace("-", "_")
    if not _NAME.fullmatch(normal):
        allowed = "letters, digits and underscores, with {field} for a number"
        raise BrokenPlugin(f"{place}: {name!r} is no name for a plugin; give {allowed}")
    for part in _FIELD.findall(normal):
        if fields is not None and part not in fields:
            raise BrokenPlugin(f"{place}: {name!r} fills {part}, which is no field of the class; add it")
    return normal


def _check_class(cls: type, place: str) -> None:
    parameters = vars(cls).get("__dataclass_params__")
    if not getattr(parameters, "frozen", False):
        raise BrokenPlugin(f"{place}: {cls.__name__} needs @dataclass(frozen=True) below the decorator")
    if not issubclass(cls, Configurable):
        bases = "dyncomp's Method, BackboneFamily or Dataset"
        raise BrokenPlugin(f"{place}: {cls.__name__} is not derived from {bases}; derive it")
    if inspect.isabstract(cls):
        missing = ", ".join(sorted(cls.__abstractmethods__))
        raise BrokenPlugin(f"{place}: {cls.__name__} is incomplete; define {missing}")
