"""Trained weights as safetensors files: no pickle, and the spec that builds the network travels along."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import load_model, save_model

from dyncomp.core import Net
from dyncomp.errors import InvalidValue


def save_checkpoint(net: Net, path: Path, facts: Mapping[str, Any]) -> None:
    """Write the weights and `facts` (what rebuilds the network) to `path`, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_suffix(".tmp")
    save_model(net, str(unfinished), metadata={"dyncomp": json.dumps(facts, sort_keys=True)})
    os.replace(unfinished, path)


def read_facts(path: Path) -> dict[str, Any]:
    """What a checkpoint says of its network. Raises InvalidValue for a file that is not one of ours."""
    try:
        with safe_open(str(path), framework="pt") as file:
            facts: dict[str, Any] = json.loads((file.metadata() or {})["dyncomp"])
            return facts
    except (SafetensorError, OSError, KeyError, ValueError) as error:
        raise InvalidValue(f"{path} is not a checkpoint of dyncomp ({error})") from error


def load_checkpoint(net: Net, path: Path) -> None:
    """Put a checkpoint's weights into a network built from the same specs."""
    try:
        load_model(net, str(path), strict=True)
    except (SafetensorError, OSError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise InvalidValue(f"{path} does not fit this network ({reason})") from error
