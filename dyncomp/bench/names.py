"""The names in a config, looked up without torch, so that a slip of the pen is answered at once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from dyncomp.bench.config import Config
from dyncomp.registry import BACKBONES, DATASETS, METHODS, Registry, include_path
from dyncomp.spec import Spec, parse_specs

ALL = "all"


def check_names(config: Config) -> None:
    """Include the loose plugins, and look up every name and every hyperparameter's name.

    Doing it again changes nothing. Raises what `registry` and `spec` raise.
    """
    for path in config.include_path:
        include_path(Path(path))
    for registry, text in ((METHODS, config.methods), (BACKBONES, config.backbone), (DATASETS, config.dataset)):
        for spec in specs_in(registry, text) if text else ():
            registry.check(spec)


def specs_in(registry: Registry[Any], text: str) -> list[Spec]:
    """The specs in a text; `all` stands for every registered method."""
    if registry is METHODS and text.strip() == ALL:
        return [Spec(name) for name in registry.names()]
    return parse_specs(text)
