"""Planned: a backbone whose blocks are kept or dropped by one decision, made from the input image."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from dyncomp.core.backbone import Backbone, ResidualBlock
from dyncomp.core.graphs import graph_form
from dyncomp.core.op import Op, hard_decision
from dyncomp.core.rules import Rule
from dyncomp.core.trace import Decision
from dyncomp.ops.rows import Rows, rows_of_each
from dyncomp.ops.skipping import SkipForm, skip_branched, skip_dense, skip_sparse


class Planned(Op):
    """A backbone in which a policy drops residual blocks for each image, before the first block runs.

    (Wu et al. 2018, arXiv:1711.08393, section 3.) The units are the bodies of the named blocks, in order. `policy` maps
    images (B, C, H, W) to the probability (B, U) that each unit is kept; its cost is the site's overhead. `bound`: the
    least distance from 0 and 1 of the probabilities that a stage draws from. Units before `first_free` are always kept
    in training; a curriculum lowers it to 0.
    """

    def __init__(self, backbone: Backbone, names: Sequence[str], policy: nn.Module, bound: float = 0.0) -> None:
        super().__init__()
        self.units = len(names)
        self.policy = policy
        self.bound = bound
        self.first_free = 0
        planner = _Planner(self)
        for unit, name in enumerate(names):
            block = backbone.part(name)
            assert isinstance(block, ResidualBlock)
            backbone.swap(name, Follower(block, unit, planner))
        self.backbone = backbone

    def decide(self, x: Tensor) -> Decision:
        """0 or 1 for each body: thresholded, or drawn in a training stage that samples."""
        probability = self.policy(x)  # (B, U)
        sampling = self.tape.sampling and self.training
        if sampling:
            probability = probability * (1 - 2 * self.bound) + self.bound
        decision = hard_decision(probability, sampling)
        if not (self.training and self.first_free):
            return decision
        kept = torch.arange(self.units, device=decision.used.device) < self.first_free  # (U,)
        return decision.map(lambda value: torch.where(kept, torch.ones_like(value), value))

    def dense(self, x: Tensor, decision: Decision) -> Tensor:
        """Run all bodies on all images."""
        return self._run(x, decision)

    def sparse(self, x: Tensor, decision: Decision) -> Tensor:
        """Run each body on the images that keep it."""
        return self._run(x, decision)

    def branched(self, x: Tensor, decision: Decision) -> Tensor:
        """Run each body in a conditional branch: see `Op.branched`."""
        return self._run(x, decision)

    def _run(self, x: Tensor, decision: Decision) -> Tensor:
        tape = self.tape
        rows = self.moving(rows_of_each, decision.used, len(x)) if tape.sparse else []
        tape.hand(self.site, Plan(decision, rows, x.shape[0]))
        try:
            y: Tensor = self.backbone(x)
        finally:
            tape.taken(self.site)
        return y

    def follow(self, make: Callable[[int, bool], Rule]) -> Rule:
        """See `Op.follow`."""
        rule = make(self.units, False)
        self.policy, self.bound, self.first_free = rule, 0.0, 0
        return rule

    def unit_parts(self) -> tuple[nn.Module | None, ...]:
        """The bodies, in order."""
        followers = (module for module in self.backbone.modules() if isinstance(module, Follower))
        return tuple(follower.block.body for follower in followers)

    def least(self) -> Tensor:
        """No unit: every body may be dropped."""
        return torch.zeros(self.units)

    def forced(self, used: Tensor, weight: Tensor) -> Decision:
        """The requested units, with weight 1."""
        return Decision(used, used, used)


class Plan(NamedTuple):
    """The decision of a pass and, in the sparse form, the images of each body; the op hands it to its blocks."""

    decision: Decision
    rows: Sequence[Rows]
    images: int

    def of(self, unit: int, x: Tensor) -> Rows:
        """The images of x (B, ...) that run a unit. Raises ValueError if the plan is for another number of images."""
        if x.shape[0] != self.images:
            raise ValueError(f"{x.shape[0]} images in a planned block; give it all {self.images} of the pass")
        return self.rows[unit]


class _Planner:
    """A reference from a block to its op. It is no module, so the op is no submodule of the block; copies follow it."""

    def __init__(self, op: Planned) -> None:
        self.op = op


class Follower(nn.Module):
    """A residual block of the backbone, which runs for the images that the plan gives."""

    form: SkipForm = "output"

    def __init__(self, block: ResidualBlock, unit: int, planner: _Planner) -> None:
        super().__init__()
        self.block = block
        self.unit = unit
        self.planner = planner

    @property
    def is_planned(self) -> bool:
        """Whether the pass is sparse and unmetered, and has a plan for the block."""
        op = self.planner.op
        tape = op.tape
        return tape.sparse and tape.meter is None and tape.handed(op.site) is not None

    def plan(self) -> Plan:
        """The plan of the current pass. Raises RuntimeError outside a pass of the op."""
        op = self.planner.op
        plan: Plan | None = op.tape.handed(op.site)
        if plan is None:
            raise RuntimeError("a planned block was run outside its network")
        return plan

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C', H', W')."""
        op, plan = self.planner.op, self.plan()
        if graph_form() == "routed":
            return skip_branched(op, self.unit, self.block, x, plan.decision, self.form)
        if op.tape.sparse:
            return skip_sparse(op, self.unit, self.block, x, plan.of(self.unit, x), self.form)
        return skip_dense(op, self.unit, self.block, x, plan.decision, self.form)
