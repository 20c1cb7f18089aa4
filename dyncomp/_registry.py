"""The plugins of one kind by name: found without importing them, imported when one is made."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import MISSING, replace
from operator import attrgetter
from typing import Any, Generic, TypeVar

from dyncomp._discover import built_in_sources, entry_point_sources, read_entries
from dyncomp._entry import Entry, entry_of
from dyncomp._source import Source
from dyncomp.errors import BrokenPlugin, DyncompError, InvalidSpec, NameCollision, UnknownName
from dyncomp.spec import Spec, check_options, parse_spec

__all__ = ["PluginWarning", "Registry"]

T = TypeVar("T")
C = TypeVar("C", bound=type)


class PluginWarning(UserWarning):
    """A plugin that cannot be read; it harms no other."""


class Registry(Generic[T]):
    """The plugins of one kind. Nothing is read before the first question."""

    def __init__(self, kind: str, package: str, group: str) -> None:
        self.kind = kind
        self.plural = f"{kind}s"
        self._package = package
        self._group = group
        self._scanned = False
        self._entries: dict[str, Entry] = {}
        self._contested: dict[str, str] = {}
        self._broken: list[str] = []
        self._unread: list[tuple[Source, str | None]] = []  # modules to import, and what is wanted of them

    def register(self, name: str, *, paper: str = "") -> Callable[[C], C]:
        """The decorator of a frozen dataclass; `name` may be a template: "cifar_resnet{depth}".

        Raises NameCollision when another class has the name, BrokenPlugin for an unfit class.
        """
        frame = inspect.currentframe()
        line = frame.f_back.f_lineno if frame and frame.f_back else 0

        def decorate(cls: C) -> C:
            self.scan()
            entry = entry_of(self.kind, name, paper, cls, line)
            self._add(entry)
            cls.registered_name = entry.name  # type: ignore[attr-defined]
            return cls

        return decorate

    def names(self) -> list[str]:
        """All names; a template stands for all that it matches."""
        return [entry.name for entry in self.entries()]

    def entries(self) -> list[Entry]:
        """All entries by name; nothing is imported where the text tells enough."""
        self.scan()
        self._import_unread()
        return [self._entries[name] for name in sorted(self._entries)]

    def entry(self, name: str) -> Entry:
        """The entry of a name, or of the template that it follows.

        Raises UnknownName, NameCollision.
        """
        return self._resolve(name)[0]

    def check(self, spec: str | Spec) -> Entry:
        """The entry that a spec names; its options' names are checked, not yet their values.

        Imports nothing. Raises InvalidSpec, UnknownName, NameCollision.
        """
        return self._bind(spec)[0]

    def create(self, spec: str | Spec) -> T:
        """The plugin that a spec describes. Raises a DyncompError that says what to mend."""
        entry, options = self._bind(spec)
        make: Any = entry.load()
        instance: T = make(**options)
        check_options(instance)  # once more: a class may have a __post_init__ of its own
        return instance

    @contextmanager
    def temporary(self) -> Iterator[None]:
        """Forgets on leaving what was registered inside: for tests."""
        self.scan()
        with self.kept(always=True):
            yield

    @contextmanager
    def kept(self, *, always: bool = False) -> Iterator[None]:
        """Restores the entries on leaving by an error, or always."""
        names = ("_entries", "_contested", "_broken", "_unread")
        saved = {name: getattr(self, name).copy() for name in names}
        try:
            yield
        except BaseException:
            vars(self).update(saved)
            raise
        if always:
            vars(self).update(saved)

    def read(self, source: Source) -> bool:
        """Registers what a loose file's text shows; whether running it would show no more.

        Raises BrokenPlugin, NameCollision.
        """
        self.scan()
        for entry in self.read_from(source):  # from an earlier reading
            del self._entries[entry.name]
        entries, complete = read_entries(self.kind, source)
        for entry in entries:
            self._add(entry)
        return complete

    def read_from(self, source: Source) -> list[Entry]:
        """The entries of a loose file."""
        entries = self._entries.values()
        return [e for e in entries if e.source.loose and e.source.file == source.file]

    def report(self, problems: Collection[str], *, warn: bool = True) -> None:
        """Keeps what was left out for the error of an unknown name, and warns."""
        self._broken += problems
        for problem in problems if warn else ():
            warnings.warn(f"plugin left out: {problem}", PluginWarning, stacklevel=2)

    def _bind(self, spec: str | Spec) -> tuple[Entry, dict[str, Any]]:
        """The entry, and all options that the spec gives, those in the name included."""
        spec = parse_spec(spec) if isinstance(spec, str) else spec
        entry, filled = self._resolve(spec.name)
        for key in spec.options.keys() & filled.keys():
            raise InvalidSpec(f"{spec.name}: {key} stands in the name already; leave out {key}=")
        known = [option.name for option in entry.options if option.name not in filled]
        if unknown := [key for key in spec.options if key not in known]:
            raise self._unknown_option(spec.name, unknown[0], known)
        given = {**filled, **spec.options}
        for option in entry.options:
            if option.default is MISSING and option.name not in given:
                raise InvalidSpec(f"{spec.name}: {option.name} has no default; give {option.name}=")
        return entry, given

    def _resolve(self, name: str) -> tuple[Entry, dict[str, int]]:
        """The entry of a name and what the name fills in; an exact name before a template."""
        name = name.replace("-", "_")
        entries = {entry.name: entry for entry in self.entries()}
        if name in entries:
            if name in self._contested:
                raise NameCollision(self._contested[name])
            return entries[name], {}
        for entry in sorted(entries.values(), key=lambda entry: -len(entry.name)):
            if filled := entry.match(name):
                return entry, filled
        where = f"`dyncomp list {self.plural}` shows them all"
        hint = f"; not read: {'; '.join(self._broken)}" if self._broken else ""
        raise UnknownName.among(self.kind, name, entries, where + hint)

    def _unknown_option(self, name: str, key: str, known: Collection[str]) -> UnknownName:
        if not known:
            return UnknownName(f"{name} has no hyperparameters, {key!r} was given; write {name}")
        where = f"`dyncomp list {self.plural}` shows them all"
        return UnknownName.among(f"hyperparameter of {name}", key, known, where)

    def _add(self, entry: Entry) -> None:
        """Raises NameCollision when another class has the name."""
        other = self._entries.get(entry.name)
        if other and not other.same_place(entry):
            places = f"{other.place} ({other.origin}) and {entry.place} ({entry.origin})"
            text = f"{self.kind} {entry.name!r} is registered at two places: {places}; rename one"
            raise NameCollision(text)
        if other and entry.source.by_hand:  # read before, imported now: where it is from stays
            entry = replace(entry, source=other.source)
        self._entries[entry.name] = entry

    def scan(self) -> None:
        """Read the text of all plugins, unless that is done; imports none. Warns of those that cannot be read."""
        if self._scanned:
            return
        self._scanned = True
        problems: list[str] = []
        sources: list[tuple[Source, str | None]] = [(one, None) for one in built_in_sources(self._package)]
        sources += entry_point_sources(self._group, problems)
        for source, wanted in sources:
            try:
                entries, complete = read_entries(self.kind, source)
            except BrokenPlugin as error:
                problems.append(str(error))
                continue
            problems += self._admit(entries)
            if not complete or not _has(entries, wanted):
                self._unread.append((source, wanted))
        self.report(problems)

    def _admit(self, entries: Iterable[Entry]) -> Iterator[str]:
        """Adds what is read; yields the collisions, which are raised when the name is asked for."""
        for entry in entries:
            try:
                self._add(entry)
            except NameCollision as error:
                self._contested[entry.name] = str(error)
                yield str(error)

    def _import_unread(self) -> None:
        """Imports the modules whose text does not tell what they register."""
        problems = []
        while self._unread:
            source, wanted = self._unread.pop(0)
            try:
                self._import(source, wanted)
            except DyncompError as error:
                problems.append(str(error))
        self.report(problems)

    def _import(self, source: Source, wanted: str | None) -> None:
        before = list(self._entries.values())
        module = source.run()
        try:
            target = attrgetter(wanted)(module) if wanted else None
        except AttributeError as error:
            raise BrokenPlugin(f"{source.origin}: {error}") from None
        own = [e for e in self._entries.values() if _comes_from(e, source, target, new=e not in before)]
        if not own and wanted is not None:
            missing = f"{source.module}{f':{wanted}' if wanted else ''} registers no {self.kind}"
            raise BrokenPlugin(f"{source.origin}: {missing}; decorate it by @register_{self.kind}")
        for entry in own:
            origin = replace(entry.source, origin=source.origin)
            self._entries[entry.name] = replace(entry, source=origin)


def _has(entries: Collection[Entry], wanted: str | None) -> bool:
    """Whether a text registers what is wanted of it: nothing (None), anything ("") or a class."""
    return wanted is None or (bool(entries) and wanted in ("", *(entry.class_name for entry in entries)))


def _comes_from(entry: Entry, source: Source, target: object, *, new: bool) -> bool:
    """Whether an entry is what an import was for: this class, or anything of the module."""
    if target is not None:
        return entry.loaded is target
    inside = f"{entry.source.module}.".startswith(f"{source.module}.")
    return inside or (new and entry.origin == source.origin)
