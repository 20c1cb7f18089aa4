"""The names in a config, looked up without torch, so that a slip of the pen is answered at once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from dyncomp.bench.config import Config
from dyncomp.errors import InvalidValue
from dyncomp.registry import BACKBONES, DATASETS, METHODS, Registry, include_path
from dyncomp.spec import Spec, parse_specs

ALL = Spec("all")
GATE_CONTROLS = ("fixed", "random")
LADDER = "ladder"
CONTROLS = (*GATE_CONTROLS, LADDER)
"""methods that `all` does not stand for: a run adds them to what they are controls of"""


def check_names(config: Config) -> None:
    """Include the loose plugins, and look up every name, every hyperparameter's name and the checkpoint's file.

    Doing it again changes nothing. Raises what `registry` and `spec` raise, InvalidValue for an absent checkpoint,
    and what `check_reporters` raises.
    """
    if config.init and not Path(config.init).is_file():
        raise InvalidValue(f"init={config.init!r} is no file; give a checkpoint (.safetensors) of an earlier run")
    for path in config.include_path:
        include_path(Path(path))
    for registry, text in ((METHODS, config.methods), (BACKBONES, config.backbone), (DATASETS, config.dataset)):
        for spec in specs_in(registry, text) if text else ():
            registry.check(spec)
    if config.log:
        from dyncomp.reporters import check_reporters  # with all of the report

        check_reporters(config.log)


def specs_in(registry: Registry[Any], text: str) -> list[Spec]:
    """The specs in a text, in order; among methods, `all` stands for every one that is no control."""
    specs = parse_specs(text)
    if registry is not METHODS:
        return specs
    every = [Spec(name) for name in registry.names() if name not in CONTROLS]
    return [spec for one in specs for spec in (every if one == ALL else [one])]


def named_in(text: str) -> list[Spec]:
    """The methods' specs that a text names itself, those that `all` stands for left aside."""
    return [spec for spec in parse_specs(text) if spec != ALL]
