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
    belongs to what surrounds the op: a projection runs for every image that gets here.
    """

    units = 1

    def __init__(self, block: ResidualBlock, gate: nn.Module, form: SkipForm = "output") -> None:
        super().__init__()
        self.block = block
        self.gate = gate
        self.form = form

    def decide(self, x: Tensor) -> Decision:
        """0 or 1 for each image: a threshold, or a draw where a stage of the training samples."""
        if not self.tape.sparse or torch.is_grad_enabled() or not isinstance(self.gate, Gate):
            return hard_decision(self.gate(x), self.tape.sampling and self.training)
        logits = self.gate.logits(x)
        used = opens(logits).to(logits)
        return Decision(used, used, chance(logits))

    def dense(self, x: Tensor, decision: Decision) -> Tensor:
        """The body on all images, then the block's output or what skips it, by the decision."""
        return skip_dense(self, 0, self.block, x, decision, self.form)

    def sparse(self, x: Tensor, decision: Decision) -> Tensor:
        """The body on the images that use it, packed into a batch of their own."""
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
        """The wish as it is; a body that runs has weight 1."""
        return Decision(used, used, used)
