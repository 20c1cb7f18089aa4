"""Planned: a network whose blocks are all decided at once, from its input."""

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
    """A backbone of whose residual blocks a policy drops some for each image, before the first one runs.

    (Wu et al. 2018, arXiv:1711.08393, section 3.) A unit is the body of one of the named blocks, in their order.
    `policy` maps the images (B, C, H, W) to the probability (B, U) that each is kept; its cost is the site's overhead.
    `bound` keeps the probabilities that a stage draws from at least that far from 0 and 1, and units before
    `first_free` are always kept in training (a curriculum moves it to 0).
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
        """Which bodies run: thresholds, or draws where a stage of the training samples."""
        probability = self.policy(x)  # (B, U)
        sampling = self.tape.sampling and self.training
        if sampling:
            probability = probability * (1 - 2 * self.bound) + self.bound
        decision = hard_decision(probability, sampling)
        return self._kept_before(decision) if self.training and self.first_free else decision

    def _kept_before(self, decision: Decision) -> Decision:
        kept = torch.arange(self.units, device=decision.used.device) < self.first_free  # (U,)
        return decision.map(lambda value: torch.where(kept, torch.ones_like(value), value))

    def dense(self, x: Tensor, decision: Decision) -> Tensor:
        """All bodies on all images."""
        return self._run(x, decision)

    def sparse(self, x: Tensor, decision: Decision) -> Tensor:
        """Each body on the images that keep it."""
        return self._run(x, decision)

    def branched(self, x: Tensor, decision: Decision) -> Tensor:
        """Each body in a branch of its own: see `Op.branched`."""
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
        """None: every body may be dropped."""
        return torch.zeros(self.units)

    def forced(self, used: Tensor, weight: Tensor) -> Decision:
        """The wish as it is; a body that runs has weight 1."""
        return Decision(used, used, used)


class Plan(NamedTuple):
    """What the op hands its blocks in a pass: the decision and, in the sparse form, the images of each body."""

    decision: Decision
    rows: Sequence[Rows]
    images: int

    def of(self, unit: int, x: Tensor) -> Rows:
        """The images of x (B, ...) that run a unit. Raises ValueError where the plan is for other images."""
        if x.shape[0] != self.images:
            raise ValueError(f"{x.shape[0]} images in a planned block; give it all {self.images} of the pass")
        return self.rows[unit]


class _Planner:
    """How blocks find the op that they belong to: no part of them, and copied with them."""

    def __init__(self, op: Planned) -> None:
        self.op = op


class Follower(nn.Module):
    """A residual block in its place in the backbone, skipped as the plan says."""

    form: SkipForm = "output"

    def __init__(self, block: ResidualBlock, unit: int, planner: _Planner) -> None:
        super().__init__()
        self.block = block
        self.unit = unit
        self.planner = planner

    @property
    def is_planned(self) -> bool:
        """Whether the only question about it, in this pass, is which images run it."""
        op = self.planner.op
        tape = op.tape
        return tape.sparse and tape.meter is None and tape.handed(op.site) is not None

    def plan(self) -> Plan:
        """That of the pass. Raises RuntimeError outside of one."""
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
