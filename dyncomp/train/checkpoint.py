"""Trained weights as safetensors files: no pickle, and what builds the network again travels along."""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import load_model, save_model

from dyncomp.core import Net
from dyncomp.errors import InvalidValue

FACTS = "dyncomp"
_GIVE = "give one that a benchmark run wrote (OUTPUT/checkpoints/KEY.safetensors)"


def save_checkpoint(net: Net, path: Path, facts: Mapping[str, Any]) -> None:
    """Write the weights and `facts` (what rebuilds the network) to `path`, whole or not at all.

    Tensors that several modules share are stored once.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}-{secrets.token_hex(6)}")
    try:
        save_model(net, str(unfinished), metadata={FACTS: json.dumps(facts, sort_keys=True)})
        os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)


def read_facts(path: Path) -> dict[str, Any]:
    """What a checkpoint says of its network. Raises InvalidValue for a file that is not one of ours."""
    try:
        with safe_open(str(path), framework="pt") as file:
            facts: dict[str, Any] = json.loads((file.metadata() or {})[FACTS])
            return facts
    except KeyError:
        raise InvalidValue(
            f"{path} is not a checkpoint of dyncomp (it does not say of which network); {_GIVE}"
        ) from None
    except (SafetensorError, OSError, ValueError) as error:
        raise InvalidValue(f"{path} is not a checkpoint of dyncomp ({_in_one_line(error)}); {_GIVE}") from error


def load_checkpoint(net: Net, path: Path) -> None:
    """Put a checkpoint's weights into a network built from the same specs. Raises InvalidValue."""
    read_facts(path)
    try:
        load_model(net, str(path), strict=True)
    except (SafetensorError, OSError, RuntimeError) as error:
        raise InvalidValue(f"{path} holds the weights of another network ({_in_one_line(error)})") from error


def _in_one_line(error: Exception) -> str:
    text = " ".join(str(error).split())
    return text if len(text) <= 200 else f"{text[:200]}..."
