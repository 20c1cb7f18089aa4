"""Gated: a residual block that images may skip."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from dyncomp.core.backbone import ResidualBlock
from dyncomp.core.op import Op, hard_decision
from dyncomp.core.rules import Rule
from dyncomp.core.trace import Decision
from dyncomp.ops.gates import Gate, RuledGate, chance, opens
from dyncomp.ops.rows import rows_of
from dyncomp.ops.skipping import SkipForm, skip_branched, skip_dense, skip_sparse


class Gated(Op):
    """y = g * block(x) + (1 - g) * shortcut(x), with g in {0, 1} per image (Wang et al. 2018, arXiv:1711.09485, eq. 1).

    With `form="residual"`, y = activation(g * body(x) + shortcut(x)) (Veit & Belongie 2018, arXiv:1711.11503, eq. 2).
    One unit, the block's body. `gate` maps x (B, C, H, W) to the probability (B, 1) that the body runs. The shortcut
    is not part of the unit: a projection runs for every image that reaches the op.
    """

    units = 1

    def __init__(self, block: ResidualBlock, gate: nn.Module, form: SkipForm = "output") -> None:
        super().__init__()
        self.block = block
        self.gate = gate
        self.form = form

    def decide(self, x: Tensor) -> Decision:
        """0 or 1 for each image: thresholded, or drawn in a training stage that samples."""
        if not self.tape.sparse or torch.is_grad_enabled() or not isinstance(self.gate, Gate):
            return hard_decision(self.gate(x), self.tape.sampling and self.training)
        logits = self.gate.logits(x)
        used = opens(logits).to(logits)
        return Decision(used, used, chance(logits))

    def dense(self, x: Tensor, decision: Decision) -> Tensor:
        """Run the body on all images, then combine the block's output and the skipped one by the decision."""
        return skip_dense(self, 0, self.block, x, decision, self.form)

    def sparse(self, x: Tensor, decision: Decision) -> Tensor:
        """Run the body on the packed batch of the images that use it."""
        return skip_sparse(self, 0, self.block, x, self.moving(rows_of, decision.used, len(x)), self.form)

    def branched(self, x: Tensor, decision: Decision) -> Tensor:
        """See `Op.branched`."""
        return skip_branched(self, 0, self.block, x, decision, self.form)

    def follow(self, make: Callable[[int, bool], Rule]) -> Rule:
        """See `Op.follow`."""
        rule = make(1, False)
        self.gate = RuledGate(rule)
        return rule

    def unit_parts(self) -> tuple[nn.Module | None, ...]:
        """The body."""
        return (self.block.body,)

    def least(self) -> Tensor:
        """No unit: the body may be skipped."""
        return torch.zeros(1)

    def forced(self, used: Tensor, weight: Tensor) -> Decision:
        """The requested units, with weight 1."""
        return Decision(used, used, used)
