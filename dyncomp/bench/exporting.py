"""From a checkpoint to a file for another engine."""

from __future__ import annotations

from pathlib import Path

import torch

from dyncomp._facts import rebuilding_facts
from dyncomp.bench.rebuild import rebuild
from dyncomp.export import Exported, export_network, free_path
from dyncomp.export.formats import format_of

FORMS = ("dense", "routed")


def export_checkpoint(checkpoint: Path, format: str, routed: bool, output: Path | None) -> tuple[Path, Exported]:
    """Write a checkpoint's network; `output` is by default the checkpoint's name, form and suffix, in this folder.

    Gives where, and what was written, ready to run. Raises InvalidValue for a file that is no checkpoint, is cut off or
    is of a newer format, UnknownName where a plugin is not included, and what `export_network` raises.
    """
    kind = format_of(format)
    path = output or Path(f"{checkpoint.stem}.{FORMS[routed]}{kind.suffix}")
    free_path(path, kind)
    kind.check_installed()
    kind.check_imports()
    identity = rebuilding_facts(checkpoint)["identity"]
    net, _ = rebuild(checkpoint, torch.device("cpu"))
    about = {name: identity[name] for name in ("method", "backbone", "dataset", "seed") if name in identity}
    return path, export_network(net, path, format, routed, about)
