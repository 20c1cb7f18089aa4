"""The plugins that another process must be told of, to make the same networks as this one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from dyncomp.errors import InvalidValue
from dyncomp.registry import BACKBONES, DATASETS, METHODS, include_path


@dataclass(frozen=True)
class Plugins:
    """What another process must read to know the same plugins: loose files, modules that register by themselves.

    `unreachable` are the names that only the running program knows.
    """

    files: tuple[str, ...]
    modules: tuple[str, ...]
    unreachable: tuple[str, ...]

    def register(self) -> None:
        """Make them known here."""
        for file in self.files:
            include_path(file)
        for module in self.modules:
            import_module(module)

    def check(self, identity: Mapping[str, Any]) -> None:
        """Raise InvalidValue where a plugin of a cell of this identity cannot be known in another process."""
        for registry in (METHODS, BACKBONES, DATASETS):
            name = str(identity[registry.kind]).partition("(")[0]
            if name in self.unreachable:
                raise InvalidValue(
                    f"{registry.kind} {name!r} is registered in the program itself, which another process cannot "
                    "import; put its class into a file of its own and name that by include_path"
                )


def known_plugins() -> Plugins:
    """Those of this process that no other one finds on its own."""
    entries = [entry for registry in (METHODS, BACKBONES, DATASETS) for entry in registry.entries()]
    by_hand = [entry for entry in entries if entry.source.by_hand]
    inside = [e for e in by_hand if e.source.module == "__main__" or "<locals>" in e.class_name]
    return Plugins(
        files=tuple(dict.fromkeys(str(e.source.file) for e in entries if e.source.loose)),
        modules=tuple(dict.fromkeys(e.source.module for e in by_hand if e not in inside)),
        unreachable=tuple(entry.name for entry in inside),
    )
