"""Dense, sparse and routed forms of a residual block whose body can be skipped, for all ops that skip blocks."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from dyncomp.core.backbone import ResidualBlock
from dyncomp.core.graphs import either
from dyncomp.core.hooks import is_heard
from dyncomp.core.inplace import in_place
from dyncomp.core.op import Op
from dyncomp.core.trace import Decision
from dyncomp.ops.rows import Rows, put, take

SkipForm = Literal["output", "residual"]
"""What the gate g multiplies: the block's output, g * block(x) + (1 - g) * shortcut(x), or the body's,
activation(g * body(x) + shortcut(x)). In the first form the activation is not applied to images that skip."""


def skip_dense(op: Op, unit: int, block: ResidualBlock, x: Tensor, decision: Decision, form: SkipForm) -> Tensor:
    """Run the body, a unit of `op`, on all images x (B, C, H, W), weighted by the decision."""
    shortcut: Tensor = block.shortcut(x)  # (B, C', H', W')
    with op.tape.within(decision.used[:, unit]):
        residual = op.unit(unit, block.body, x)
    gate = decision.weight[:, unit, None, None, None].to(residual.dtype)  # (B, 1, 1, 1)
    if form == "residual":
        return block.join(residual * gate, shortcut)
    whole = block.join(residual, shortcut)
    return torch.lerp(shortcut.to(whole.dtype), whole, gate.to(whole.dtype))  # exact at 0 and 1, in one pass


def skip_branched(op: Op, unit: int, block: ResidualBlock, x: Tensor, decision: Decision, form: SkipForm) -> Tensor:
    """Run the body, a unit of `op`, in a conditional branch of a graph, for one image x (1, C, H, W)."""
    shortcut: Tensor = block.shortcut(x)  # (1, C', H', W')

    def run(x: Tensor, shortcut: Tensor) -> Tensor:
        return block.join(block.body(x), shortcut)

    def skip(x: Tensor, shortcut: Tensor) -> Tensor:
        return _skipped(block, shortcut, form, lost=False)

    return either(decision.used[0, unit] > 0.5, block, run, skip, (x, shortcut), op.tape)


def skip_sparse(op: Op, unit: int, block: ResidualBlock, x: Tensor, rows: Rows, form: SkipForm) -> Tensor:
    """Run the body, a unit of `op`, on the packed batch of the images at `rows`."""
    shortcut: Tensor = block.shortcut(x)  # (B, C', H', W')
    if isinstance(rows, bool) and rows:
        whole: Tensor = op.unit(unit, block.on, x, shortcut)
        return whole
    lost = block.loses(shortcut, x)
    if isinstance(rows, bool):
        skipped = _skipped(block, shortcut, form, lost)
        # the next layer may overwrite its input, while other layers still read the shortcut
        shared = skipped is shortcut and not lost and block.reads_alone is not None
        return skipped.clone() if shared else skipped
    fused = block.form(x, shortcut, len(rows))
    if fused is not None:
        into = shortcut if lost else shortcut.clone()  # same layout; not activated, as the fused form reads it
        op.unit(unit, fused.run, x, shortcut, into, rows)
        # rows that ran are activated already, but ReLU is idempotent
        return in_place(block.activation, into) if form == "residual" else into
    part = op.moving(take, x, rows)
    with op.tape.restricted_to(rows):
        residual = op.unit(unit, block.body, part)
    joined = block.join(residual, part if shortcut is x else op.moving(take, shortcut, rows))
    skipped = _skipped(block, shortcut, form, lost)
    # the activation's output is a new tensor, but autograd may read it again, and a hook may have stored it
    over = lost or (skipped is not shortcut and not torch.is_grad_enabled() and not is_heard(block.activation))
    y: Tensor = op.moving(put, skipped, rows, joined, over)
    return y


def _skipped(block: ResidualBlock, shortcut: Tensor, form: SkipForm, lost: bool) -> Tensor:
    """The output of images that skip the body; `lost`: the shortcut may be overwritten."""
    if form == "output":
        return shortcut
    if lost:
        return in_place(block.activation, shortcut)
    kept = shortcut.clone() if getattr(block.activation, "inplace", False) else shortcut
    output: Tensor = block.activation(kept)
    return output
