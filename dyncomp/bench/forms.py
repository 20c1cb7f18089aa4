"""A trained network made ready for use in another process, with the plugins that it needs there."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dyncomp.bench.rebuild import rebuild
from dyncomp.errors import InvalidValue
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


def sparse_form(checkpoint: Path, device: str, plugins: Plugins) -> Callable[[Tensor], Any]:
    """The form that is deployed, ready to be timed. Raises what `rebuild` raises."""
    name = str(read_facts(checkpoint)["identity"][METHODS.kind]).partition("(")[0]
    if name in plugins.unreachable:
        raise InvalidValue(
            f"method {name!r} is registered in the program itself, which another process cannot import; "
            "put its class into a file of its own and name that by include_path"
        )
    plugins.register()
    net, _ = rebuild(checkpoint, torch.device(device))
    return partial(net, sparse=True, record=False)
