"""Pretrained weights from a file into a network, all of them or a clear error."""

from __future__ import annotations

import warnings
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from dyncomp.errors import InvalidValue


def load_weights(model: nn.Module, file: str, name: str, ends: Collection[str]) -> None:
    """Load a state_dict from a .safetensors or torch file (read without running code in it).

    `ends` names the layers that meet images and classes: where their shapes differ from the file's
    they stay as they are, with a UserWarning. Anything else that does not fit is an InvalidValue.
    """
    state = read_state(file, name)
    own = model.state_dict()
    reshaped = [key for key in own if key in state and state[key].shape != own[key].shape]
    fresh = [key for key in reshaped if key.rpartition(".")[0] in ends]
    kept = {key: value for key, value in state.items() if key not in reshaped}
    result = model.load_state_dict(kept, strict=False)
    misfits = (
        misfit("missing", [key for key in result.missing_keys if key not in reshaped]),
        misfit("unknown", result.unexpected_keys),
        misfit("of another shape", [key for key in reshaped if key not in fresh]),
    )
    if any(misfits):
        raise InvalidValue(
            f"{name}: {file} holds another network: {'; '.join(filter(None, misfits))}; "
            f"give a state_dict of torchvision's {name}"
        )
    if fresh:
        warnings.warn(
            f"{name}: {', '.join(fresh)} in {file} have another shape: left untrained",
            stacklevel=2,
        )


def read_state(file: str, name: str) -> dict[str, Tensor]:
    """The tensors of a file by name; InvalidValue if it is no file, unreadable or anything else."""
    path = Path(file).expanduser()
    if not path.is_file():
        raise InvalidValue(f"{name}: weights={file!r} is no file; give the path of a .pth or .safetensors file")
    try:
        state: Any = (
            load_file(path)
            if path.suffix == ".safetensors"
            else torch.load(path, map_location="cpu", weights_only=True)
        )
    except Exception as error:  # a damaged file can fail anywhere in the reader
        raise unreadable(file, name, type(error).__name__) from error
    if not isinstance(state, dict) or not all(isinstance(v, Tensor) for v in state.values()):
        raise unreadable(file, name, "not a dict of tensors")
    return state


def unreadable(file: str, name: str, why: str) -> InvalidValue:
    return InvalidValue(
        f"{name}: {file} is no checkpoint ({why}); give a state_dict saved by torch.save or as .safetensors"
    )


def misfit(what: str, keys: Sequence[str]) -> str:
    """'2 keys missing (a, ...)', or nothing for no keys."""
    if not keys:
        return ""
    example = keys[0] if len(keys) == 1 else f"{keys[0]}, ..."
    return f"{len(keys)} {'key' if len(keys) == 1 else 'keys'} {what} ({example})"
