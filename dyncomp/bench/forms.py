"""A trained network made ready for use in another process, with the plugins that it needs there."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

import torch

from dyncomp.bench.rebuild import rebuild
from dyncomp.errors import InvalidValue
from dyncomp.profile import Form, Runner
from dyncomp.registry import BACKBONES, METHODS, include_path
from dyncomp.train import read_facts


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


def known_plugins() -> Plugins:
    """Those of this process that no other one finds on its own."""
    entries = [entry for registry in (METHODS, BACKBONES) for entry in registry.entries()]
    by_hand = [entry for entry in entries if entry.source.by_hand]
    return Plugins(
        files=tuple(dict.fromkeys(str(e.source.file) for e in entries if e.source.loose)),
        modules=tuple(dict.fromkeys(e.source.module for e in by_hand if e.source.module != "__main__")),
        unreachable=tuple(e.name for e in by_hand if e.source.module == "__main__"),
    )


def timed_form(checkpoint: Path, device: str, plugins: Plugins, form: Form) -> Runner:
    """The network in that form, ready to be timed. Raises what `rebuild` and `Runner` raise."""
    name = str(read_facts(checkpoint)["identity"][METHODS.kind]).partition("(")[0]
    if name in plugins.unreachable:
        raise InvalidValue(
            f"method {name!r} is registered in the program itself, which another process cannot import; "
            "put its class into a file of its own and name that by include_path"
        )
    plugins.register()
    net, _ = rebuild(checkpoint, torch.device(device))
    return Runner(net, form)
