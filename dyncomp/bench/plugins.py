"""The plugins that another process must be told of, to make the same networks as this one."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from torch.utils.flop_counter import flop_registry

from dyncomp.errors import InvalidValue
from dyncomp.registry import BACKBONES, DATASETS, METHODS, Registry, include_path

ALL: tuple[Registry[Any], ...] = (METHODS, BACKBONES, DATASETS)


@dataclass(frozen=True)
class Plugins:
    """What another process must read to know the same plugins: loose files, modules that register by themselves.

    `unreachable` are the names that only the running program knows, `formulas` the operators, and the modules that gave
    them a cost, of which no other process is told.
    """

    files: tuple[str, ...]
    modules: tuple[str, ...]
    unreachable: tuple[str, ...]
    formulas: tuple[tuple[str, str], ...] = ()

    def register(self) -> None:
        """Make them known here; a module that cannot be imported is missed when something of it is asked for."""
        for file in self.files:
            include_path(file)
        for module in self.modules:
            with suppress(ImportError):
                import_module(module)

    def check(self, identity: Mapping[str, Any], registries: Sequence[Registry[Any]] = ALL) -> None:
        """Raise InvalidValue where a plugin of a cell of this identity cannot be known in another process."""
        for registry in registries:
            name = str(identity[registry.kind]).partition("(")[0]
            if name in self.unreachable:
                raise InvalidValue(
                    f"{registry.kind} {name!r} is registered in the program itself, which another process cannot "
                    "import; put its class into a file of its own and name that by include_path"
                )

    def check_formulas(self) -> None:
        """Raise InvalidValue where an operator's cost formula is known to the running program only."""
        for operator, module in self.formulas:
            raise InvalidValue(
                f"the cost of {operator} is registered in {module}, which another process does not import; "
                "register it in the file of the plugin that needs it"
            )


def known_plugins() -> Plugins:
    """Those of this process that no other one finds on its own."""
    entries = [entry for registry in ALL for entry in registry.entries()]
    by_hand = [entry for entry in entries if entry.source.by_hand]
    inside = [e for e in by_hand if e.source.module == "__main__" or "<locals>" in e.class_name]
    return Plugins(
        files=tuple(dict.fromkeys(str(e.source.file) for e in entries if e.source.loose)),
        modules=tuple(dict.fromkeys(e.source.module for e in by_hand if e not in inside)),
        unreachable=tuple(entry.name for entry in inside),
        formulas=tuple(_formulas({e.source.module for e in entries if e not in inside})),
    )


def _formulas(modules: Collection[str]) -> Iterator[tuple[str, str]]:
    """Operators whose cost formula is neither torch's, nor ours, nor of these modules; and where it is from."""
    for operator, formula in flop_registry.items():
        module = str(formula.__module__)
        if module.partition(".")[0] not in ("torch", "dyncomp") and module not in modules:
            yield str(operator), module
