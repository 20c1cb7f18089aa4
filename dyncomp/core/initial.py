"""Initialisation of a network by networks that are trained before it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from dyncomp.core.net import Net
from dyncomp.core.tape import Taped
from dyncomp.errors import InvalidValue

PLAIN = "plain"
"""name of the trained plain backbone among the sources of a method"""
PLAIN_METHOD = "static"


@dataclass(frozen=True)
class Source:
    """A network that is trained before a method's own network: `method`, a spec, on the same backbone and data.

    `share`: fraction of a budget for which it is trained; `counted`: fraction of the method's budget that this uses up,
    the rest is for the method's own stages. With a `checkpoint`, a path, nothing is trained, and `method` is ignored.
    """

    method: str = PLAIN_METHOD
    share: float = 1.0
    counted: float = 0.0
    checkpoint: str = ""


def pretrained(share: float) -> Mapping[str, Source]:
    """The sources of a method that starts from the plain backbone, trained for a share of its budget; 0: none."""
    return {PLAIN: Source(share=share, counted=share)} if share else {}


def adopt(net: Net, plain: Net) -> None:
    """Copy the trained plain backbone's weights and statistics into `net`, by the names in `Net.origins`.

    In an ensemble only the first member receives them: members that start from equal weights and learn from the same
    batches would stay equal. Raises InvalidValue for a network of another backbone.
    """
    trained = plain.state_dict()
    kept = {origin: trained[name] for name, origin in plain.origins.items()}
    others = (name for name, part in net.named_modules() if isinstance(part, Taped) and part.begins_afresh)
    afresh = tuple(f"{name}." for name in others)
    state = net.state_dict()
    wanted = {name: origin for name, origin in net.origins.items() if not name.startswith(afresh)}
    for name, origin in wanted.items():
        if origin not in kept or kept[origin].shape != state[name].shape:
            raise InvalidValue(
                f"the plain backbone has no {origin} of shape {tuple(state[name].shape)}; give a network, or the "
                f"checkpoint, of {PLAIN_METHOD} on the same backbone and data set"
            )
    with torch.no_grad():
        for name, origin in wanted.items():
            state[name].copy_(kept[origin])
