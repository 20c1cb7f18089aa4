"""Trained weights as safetensors files: no pickle, and what builds the network again travels along."""

from __future__ import annotations

import json
import math
import os
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_model, save_model
from torch import nn

from dyncomp._version import __version__
from dyncomp.core import Net
from dyncomp.errors import InvalidValue, shortened

FACTS = "dyncomp"
FORMAT_KEY, FORMAT = "dyncomp_format", 2
"""The format of the files that are written: 1, which did not say so, kept no class names, mean and deviation."""
_STORED = {torch.float16: "F16", torch.bfloat16: "BF16", torch.float32: "F32", torch.float64: "F64"}
"""what safetensors calls the types of numbers that weights may have"""
_GIVE = "give one that a benchmark run wrote (OUTPUT/checkpoints/KEY.safetensors), or dyncomp.save"


def save_checkpoint(net: Net, path: Path, facts: Mapping[str, Any]) -> None:
    """Write the weights and `facts` (what rebuilds the network) to `path`, whole or not at all.

    Tensors that several modules share are stored once. Raises OSError where it cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}-{secrets.token_hex(6)}")
    try:
        told = {FACTS: json.dumps(facts, sort_keys=True), FORMAT_KEY: str(FORMAT)}
        save_model(net, str(unfinished), metadata=told)
        os.replace(unfinished, path)
    except SafetensorError as error:  # how a full disk is told, among others
        raise OSError(shortened(str(error), most=200)) from error
    finally:
        unfinished.unlink(missing_ok=True)


def read_facts(path: Path) -> dict[str, Any]:
    """What a checkpoint says of its network. Raises InvalidValue for a file that is not one of ours, or newer."""
    try:
        with safe_open(str(path), framework="pt") as file:
            told = file.metadata() or {}
        facts, written = json.loads(told[FACTS]), int(told.get(FORMAT_KEY, 1))
        if not isinstance(facts, dict):
            raise ValueError(f"{FACTS} is {facts!r}")
        if written < 1:
            raise ValueError(f"its format is {written}; there is none below 1")
    except KeyError:
        raise _refused(path, "it does not say of which network") from None
    except (SafetensorError, OSError, ValueError, RecursionError) as error:
        raise _refused(path, _missing(path) or shortened(str(error), most=200)) from error
    if written > FORMAT:
        raise InvalidValue(
            f"{path} has format {written}, and dyncomp {__version__} reads up to format {FORMAT}; update dyncomp, or "
            "save the network by this version"
        )
    return facts


def stored_numbers(path: Path) -> int:
    """How many numbers a checkpoint that `read_facts` has read holds; only its header is read."""
    with safe_open(str(path), framework="pt") as file:
        return sum(math.prod(file.get_slice(name).get_shape()) for name in file.keys())  # noqa: SIM118


def _refused(path: Path, why: str) -> InvalidValue:
    return InvalidValue(f"{path} is not a checkpoint of dyncomp ({why}); {_GIVE}")


def _missing(path: Path) -> str:
    """Why there is no file to read; empty where there is one."""
    if not path.is_dir():
        return "" if path.exists() else "no such file"
    inside = sorted([*path.glob("checkpoints/*.safetensors"), *path.glob("*.safetensors")])
    return f"a folder, with {inside[0].relative_to(path)} in it" if inside else "a folder"


def load_checkpoint(net: Net, path: Path) -> None:
    """Put a checkpoint's weights into a network built from the same specs. Raises InvalidValue."""
    read_facts(path)
    _check_types(net, path)
    try:
        load_model(net, str(path), strict=True)
    except (SafetensorError, OSError, RuntimeError) as error:
        raise InvalidValue(
            f"{path} holds the weights of another network ({shortened(str(error), most=200)})"
        ) from error


def _check_types(net: Net, path: Path) -> None:
    """Raise InvalidValue where numbers of another type would be rounded in silence; buffers may be finer or coarser."""
    state = net.state_dict(keep_vars=True)
    with safe_open(str(path), framework="pt") as file:
        stored = {name: file.get_slice(name).get_dtype() for name in file.keys() if name in state}  # noqa: SIM118
    for name, kind in stored.items():
        value = state[name]
        wanted = _STORED.get(value.dtype, "")
        alike = kind in _STORED.values() and value.is_floating_point() and not isinstance(value, nn.Parameter)
        if wanted and kind != wanted and not alike:
            raise InvalidValue(
                f"{path} holds {name} as {kind}, and says it is {str(value.dtype).removeprefix('torch.')}; {_GIVE}"
            )
