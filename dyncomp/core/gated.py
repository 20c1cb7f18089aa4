"""Gated: a residual block that images may skip."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from dyncomp.core.backbone import ResidualBlock
from dyncomp.core.op import Op, hard_decision
from dyncomp.core.rows import put, take
from dyncomp.core.trace import Decision


class Gated(Op):
    """y = g * block(x) + (1 - g) * shortcut(x), with g in {0, 1} per image (Wang et al. 2018, arXiv:1711.09485, eq. 1).

    One unit, the block's body. `gate` maps x (B, C, H, W) to the probability (B, 1) that the body runs. The shortcut
    belongs to what surrounds the op: a projection runs for every image that gets here.
    """

    units = 1

    def __init__(self, block: ResidualBlock, gate: nn.Module) -> None:
        super().__init__()
        self.block = block
        self.gate = gate

    def decide(self, x: Tensor) -> Decision:
        """0 or 1 for each image: a threshold, or a draw where a stage of the training samples."""
        return hard_decision(self.gate(x), self.tape.sampling and self.training)

    def dense(self, x: Tensor, decision: Decision) -> Tensor:
        """The body on all images, then the block's output or the shortcut's by the decision."""
        shortcut: Tensor = self.block.shortcut(x)  # (B, C', H', W')
        with self.tape.within(decision.used[:, 0]):
            residual = self._unit(0, self.block.body, x)
        whole = self.block.join(residual, shortcut)
        gate = decision.weight[:, :, None, None].to(whole.dtype)  # (B, 1, 1, 1)
        return torch.lerp(shortcut.to(whole.dtype), whole, gate)  # exact at 0 and 1, in one pass over memory

    def sparse(self, x: Tensor, decision: Decision) -> Tensor:
        """The body on the images that use it, packed into a batch of their own."""
        rows = (decision.used[:, 0] > 0.5).nonzero().squeeze(1)  # (used images,)
        shortcut: Tensor = self.block.shortcut(x)  # (B, C', H', W')
        if len(rows) == 0:
            return shortcut
        if len(rows) == len(x):
            return self.block.join(self._unit(0, self.block.body, x), shortcut)
        with self.tape.narrow(rows):
            residual = self._unit(0, self.block.body, take(x, rows))
        return put(shortcut, rows, self.block.join(residual, take(shortcut, rows)))

    def unit_parts(self) -> tuple[nn.Module | None, ...]:
        """The body."""
        return (self.block.body,)

    def least(self) -> Tensor:
        """No unit: the body may be skipped."""
        return torch.zeros(1)

    def forced(self, used: Tensor, weight: Tensor) -> Decision:
        """The wish as it is; a body that runs has weight 1."""
        return Decision(used, used, used)
