"""A residual block whose body some images skip: the dense and the sparse form, for every op that skips blocks."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from dyncomp.core.backbone import ResidualBlock
from dyncomp.core.op import Op
from dyncomp.core.rows import put, rows_using, take
from dyncomp.core.trace import Decision

Form = Literal["output", "residual"]
"""What the gate g multiplies: the whole block's output, g * block(x) + (1 - g) * shortcut(x), or the body alone,
activation(g * body(x) + shortcut(x)). They differ in whether what skips passes the block's activation."""


def skip_dense(op: Op, unit: int, block: ResidualBlock, x: Tensor, decision: Decision, form: Form) -> Tensor:
    """The body, a unit of `op`, on all images x (B, C, H, W), its share in the output by the decision's weight."""
    shortcut: Tensor = block.shortcut(x)  # (B, C', H', W')
    with op.tape.within(decision.used[:, unit]):
        residual = op.unit(unit, block.body, x)
    gate = decision.weight[:, unit, None, None, None].to(residual.dtype)  # (B, 1, 1, 1)
    if form == "residual":
        return block.join(residual * gate, shortcut)
    whole = block.join(residual, shortcut)
    return torch.lerp(shortcut.to(whole.dtype), whole, gate.to(whole.dtype))  # exact at 0 and 1, in one pass


def skip_sparse(op: Op, unit: int, block: ResidualBlock, x: Tensor, decision: Decision, form: Form) -> Tensor:
    """The body, a unit of `op`, on the images that use it, packed into a batch of their own."""
    rows = op.moving(rows_using, decision.used[:, unit])  # (used images,)
    shortcut: Tensor = block.shortcut(x)  # (B, C', H', W')
    if len(rows) == len(x):
        return block.join(op.unit(unit, block.body, x), shortcut)
    skipped = block.activation(shortcut) if form == "residual" else shortcut
    if len(rows) == 0:
        return skipped
    with op.tape.narrow(rows):
        residual = op.unit(unit, block.body, op.moving(take, x, rows))
    joined = block.join(residual, op.moving(take, shortcut, rows))
    y: Tensor = op.moving(put, skipped, rows, joined)
    return y
