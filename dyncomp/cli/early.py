"""Checks that need no torch, so that a slip of the pen is answered at once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from dyncomp.registry import BACKBONES, DATASETS, METHODS, include_path
from dyncomp.spec import parse_specs


def check_early(given: dict[str, Any]) -> None:
    """Look up every name and every hyperparameter's name. Raises what `registry` and `spec` raise."""
    for path in given.get("include_path", ()):
        include_path(Path(path))
    for option, registry in (("methods", METHODS), ("backbone", BACKBONES), ("dataset", DATASETS)):
        text = given.get(option)
        if text is not None and text != "all":
            for spec in parse_specs(text):
                registry.check(spec)
