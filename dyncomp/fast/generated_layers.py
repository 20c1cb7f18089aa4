"""Puts generated code into the slots of a network's layers, blocks and ops; needs llvmlite."""

from __future__ import annotations

from torch import nn

from dyncomp.core.backbone import ResidualBlock
from dyncomp.fast.behaviour import runs_as
from dyncomp.fast.fusion import find_runs
from dyncomp.fast.layers.convolution import with_tuned_layers
from dyncomp.fast.layers.residual_body import GeneratedBody
from dyncomp.fast.layers.switched_filters import SwitchedFilters
from dyncomp.ops.filtered import Filtered


def with_generated_code(model: nn.Module) -> nn.Module:
    """Return the model, in evaluation, with generated code for all that supports it; trials decide where it is used."""
    fast = with_tuned_layers(model)
    for part in fast.modules():
        if isinstance(part, ResidualBlock):
            part.fused = GeneratedBody.of(part)
        elif isinstance(part, Filtered) and runs_as(part, Filtered):
            part.fused = SwitchedFilters.of(part)
    find_runs(fast)
    return fast
