"""From a checkpoint to a file for another engine."""

from __future__ import annotations

import re
from pathlib import Path

import torch

from dyncomp._version import __version__
from dyncomp.bench.rebuild import rebuild
from dyncomp.errors import InvalidValue
from dyncomp.export import Exported, export_network, free_path
from dyncomp.export.formats import format_of
from dyncomp.train import read_facts

FORMS = ("dense", "routed")


def export_checkpoint(checkpoint: Path, format: str, routed: bool, output: Path | None) -> tuple[Path, Exported]:
    """Write a checkpoint's network; `output` is by default the checkpoint's name, form and suffix, in this folder.

    Gives where, and what was written, ready to run. Raises InvalidValue for a file that is no checkpoint, is cut off or
    comes from a newer version, UnknownName where a plugin is not included, and what `export_network` raises.
    """
    kind = format_of(format)
    path = output or Path(f"{checkpoint.stem}.{FORMS[routed]}{kind.suffix}")
    free_path(path, kind)
    kind.check_installed()
    identity = read_facts(checkpoint).get("identity", {})
    _refuse_newer(checkpoint, str(identity.get("version", "")))
    net, _ = rebuild(checkpoint, torch.device("cpu"))
    about = {name: identity[name] for name in ("method", "backbone", "dataset", "seed") if name in identity}
    return path, export_network(net, path, format, routed, about)


def _refuse_newer(checkpoint: Path, version: str) -> None:
    if _numbers(version) > _numbers(__version__):
        raise InvalidValue(
            f"{checkpoint} was written by dyncomp {version}, this is {__version__}; install that version"
        )


def _numbers(version: str) -> list[int]:
    """The release that a version begins with."""
    release = re.match(r"\d+(\.\d+)*", version)
    return [int(number) for number in release[0].split(".")] if release else []
