"""Fused forms for silent passes, which need logits only: gates, exits and routers give no `Decision`."""

from __future__ import annotations

import torch
from torch import Tensor

from dyncomp.ops.exits import Exit
from dyncomp.ops.gated import Gated
from dyncomp.ops.gates import Gate, opens
from dyncomp.ops.mixed import Mixed
from dyncomp.ops.rows import Rows, images_in, rows_where
from dyncomp.ops.skipping import skip_sparse


def gated(op: Gated, x: Tensor) -> Tensor | None:
    """The output of a gated block; the gate's logits say which images run the body.

    None where the pass is not silent, gradients are on, or the gate has no logits.
    """
    if not op.tape.silent or torch.is_grad_enabled() or not isinstance(op.gate, Gate):
        return None
    logits = op.gate.logits(x)
    if len(x) == len(logits) == 1:  # a single image's logits are read once and compared in Python
        first, *others = logits.tolist()[0]
        rows: Rows = bool(others[0] > first) if others else bool(first > 0)
    else:
        rows = rows_where(opens(logits)[:, 0], len(x))
    return skip_sparse(op, 0, op.block, x, rows, op.form)


def mixed(op: Mixed, x: Tensor) -> Tensor | None:
    """The output of the block, its kernels mixed by the router's weights; None where the pass is not silent."""
    return op.mix(x, op.router(x), dense=False) if op.tape.silent else None


def exit_or_stay(op: Exit, x: Tensor) -> Tensor | None:
    """The head's answers, and the output of the rest for images whose score is not above the threshold.

    None where the pass is not silent.
    """
    if not op.tape.silent:
        return None
    answer, score = op.asked(x)
    return op.join(x, answer, rows_where(score <= op.threshold, images_in(x)))
