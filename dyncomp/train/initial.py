"""Beginning with a network that is trained already: the plain backbone's checkpoint in a method's network."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from safetensors.torch import load_file

from dyncomp.core import Net, Stage, Voter
from dyncomp.errors import InvalidValue
from dyncomp.train.checkpoint import read_facts

PLAIN = "model.model."
"""how a checkpoint of the plain backbone calls the backbone's model"""


def start_from(net: Net, path: Path, stages: Sequence[Stage]) -> list[Stage]:
    """Copy the plain backbone's weights from a checkpoint to where they are in `net`; the stages that are left.

    Stages that only train the plain backbone are left out, the others share the whole budget. A method without such a
    stage starts from the weights as well and keeps its stages. Of an ensemble only the first member does: members that
    began alike, and learn from the same batches, would stay alike. Raises InvalidValue for another backbone's
    checkpoint.
    """
    read_facts(path)
    kept = {name.removeprefix(PLAIN): value for name, value in load_file(str(path)).items()}
    state, wanted = net.state_dict(), _wanted(net)
    for name, origin in wanted.items():
        if origin not in kept or kept[origin].shape != state[name].shape:
            raise InvalidValue(
                f"{path} holds no {origin} of shape {tuple(state[name].shape)}; "
                "give the checkpoint of static on the same backbone and data set"
            )
    with torch.no_grad():
        for name, origin in wanted.items():
            state[name].copy_(kept[origin])
    left = [stage for stage in stages if not stage.pretrains]
    total = sum(stage.share for stage in left)
    return [replace(stage, share=stage.share / total) for stage in left]


def _wanted(net: Net) -> dict[str, str]:
    """The network's tensors that begin as the checkpoint's, each with its name there."""
    others = (name for name, part in net.named_modules() if isinstance(part, Voter) and part.number > 1)
    afresh = tuple(f"{name}." for name in others)
    return {name: origin for name, origin in net.origins.items() if not name.startswith(afresh)}
