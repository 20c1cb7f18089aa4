"""Routed: top-k of several branches for each image."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from dyncomp.core.graphs import either
from dyncomp.core.net import Net
from dyncomp.core.op import Op, with_strongest
from dyncomp.core.rules import Rule
from dyncomp.core.trace import Decision
from dyncomp.ops.rows import Rows, images_in, put, rows_of_each, take


class Routed(Op):
    """y = sum of w_j * branch_j(x) over the top-k branches j of each image, k = `most`.

    `gate` maps x to scores (B, U), and softmax maps scores to probabilities. The weights are the probabilities of the
    used branches, normalised to sum 1. With `soft` = 1 the weights in training are the probabilities of all branches
    (Ioannou et al. 2016, arXiv:1603.01250, section 3), while `used`, which is priced, stays the hard choice; `soft`
    between 0 and 1 interpolates between the two kinds of weights, and a stage may change it. A unit is a branch; all
    branches have outputs of one shape. In training the scores are passed to `Tape.say` under the site's name.
    """

    def __init__(self, branches: Sequence[nn.Module], gate: nn.Module, most: int, soft: float) -> None:
        super().__init__()
        self.units = len(branches)
        self.branches = nn.ModuleList(branches)
        self.gate = gate
        self.most = most
        self.soft = soft

    def decide(self, x: Tensor) -> Decision:
        """The top-k branches of each image."""
        scores = self.gate(x)
        scores = scores.float() if scores.dtype in (torch.bfloat16, torch.float16) else scores  # (B, U)
        self.tape.say(self.site, scores)
        chances = scores.softmax(dim=1)
        chosen = torch.zeros_like(chances).scatter(1, chances.topk(self.most, dim=1).indices, 1.0)  # (B, U)
        used = chosen + (chances - chances.detach()) if chances.requires_grad else chosen
        weight = _shares(chances * chosen)
        if self.soft and self.training:
            weight = chances if self.soft == 1 else torch.lerp(weight, chances, self.soft)
        return Decision(used, weight, chances)

    def dense(self, x: Tensor, decision: Decision) -> Tensor:
        """Run every branch on all images, and sum the weighted outputs."""
        y: Tensor | None = None
        for unit, branch in enumerate(self.branches):
            with self.tape.within(decision.used[:, unit]):
                output = self.unit(unit, branch, x)
            term = output * _column(decision.weight, unit, output)
            y = term if y is None else y + term
        assert y is not None  # there is at least one branch
        return y

    def sparse(self, x: Tensor, decision: Decision) -> Tensor:
        """Run each branch on the packed batch of its images."""
        y: Tensor | None = None
        for unit, rows in enumerate(self.moving(rows_of_each, decision.used, images_in(x))):
            weight = decision.weight
            if isinstance(rows, bool):
                if not rows:
                    continue
                term = self.unit(unit, self.branches[unit], x)
            else:
                weight = weight.index_select(0, rows)
                with self.tape.restricted_to(rows):
                    term = self.unit(unit, self.branches[unit], self.moving(take, x, rows))
            term = term * _column(weight, unit, term)
            y = self.moving(_added, y, rows, term, len(decision.used))
        if y is None:  # an empty batch: every branch has an output of the right shape
            y = self.unit(0, self.branches[0], x)
        return y

    def branched(self, x: Tensor, decision: Decision) -> Tensor:
        """Run the top-k branches, each selected by conditional operators: see `Op.branched`."""
        if self.most == self.units:
            return self.dense(x, decision)
        picked = decision.used.topk(self.most, dim=1).indices[0]  # (most,)
        y: Tensor | None = None
        for place in range(self.most):
            output = self._selected_branch(picked[place], 0, x)
            term = output * decision.weight[0].index_select(0, picked[place : place + 1])
            y = term if y is None else y + term
        assert y is not None  # an image takes at least one branch
        return y

    def _selected_branch(self, index: Tensor, first: int, x: Tensor) -> Tensor:
        """The output of the branch at `index` (), where index >= `first`."""
        if first == self.units - 1:
            output: Tensor = self.branches[first](x)
            return output

        def run(x: Tensor, index: Tensor) -> Tensor:
            y: Tensor = self.branches[first](x)
            return y

        def others(x: Tensor, index: Tensor) -> Tensor:
            return self._selected_branch(index, first + 1, x)

        return either(index == first, self.branches, run, others, (x, index), self.tape)

    def follow(self, make: Callable[[int, bool], Rule]) -> Rule:
        """See `Op.follow`; the top-k branches by the rule's scores are used."""
        rule = make(self.units, self.most > 1)  # a single branch has weight 1
        self.gate = _RuledScores(rule, self.most)
        return rule

    def unit_parts(self) -> tuple[nn.Module | None, ...]:
        """The branches."""
        return tuple(self.branches)

    def least(self) -> Tensor:
        """One branch."""
        return torch.eye(self.units)[0]

    def always(self) -> Tensor:
        """No branch, or all if every image uses all."""
        return torch.full((self.units,), float(self.most == self.units))

    def forced(self, used: Tensor, weight: Tensor) -> Decision:
        """The requested branches, weights normalised to sum 1; an image without any gets the one of greatest weight."""
        used = with_strongest(used, weight)
        shares = _shares((weight + 1e-3) * used)
        return Decision(used, shares, shares)


class _RuledScores(nn.Module):
    """Scores of branches by a rule; their softmax over the used branches is the rule's weights, normalised to sum 1."""

    def __init__(self, rule: Rule, most: int) -> None:
        super().__init__()
        self.rule = rule
        self.most = most

    def forward(self, x: Tensor) -> Tensor:
        """Features (B, C, H, W) -> scores (B, U)."""
        scores = self.rule.scores(x)
        taken = torch.zeros_like(scores).scatter(1, scores.topk(self.most, dim=1).indices, 1.0)  # (B, U)
        if self.rule.weights is None:
            return torch.where(taken > 0, 0.0, -NEVER).to(scores)
        return torch.where(taken > 0, self.rule.weights.to(scores).clamp_min(1e-6).log(), -NEVER)


NEVER = 100.0
"""minus the score of a branch that a rule does not use; its probability is then 0 but for rounding"""


def harden(net: Net, progress: float, at_last: float) -> None:
    """Set `soft` of all Routed ops: 1 up to a quarter of a stage, then linear to 0 at three quarters of it.

    `at_last` is the lower bound of `soft`.
    """
    for op in net.sites.values():
        assert isinstance(op, Routed)
        op.soft = min(1.0, max(at_last, 1.5 - 2 * progress))


def _shares(weight: Tensor) -> Tensor:
    return weight / weight.sum(dim=1, keepdim=True)


def _column(weight: Tensor, unit: int, like: Tensor) -> Tensor:
    return weight[:, unit].to(like.dtype).view(-1, *[1] * (like.dim() - 1))  # (B, 1, ...)


def _added(y: Tensor | None, rows: Rows, term: Tensor, images: int) -> Tensor:
    """Add a branch's weighted output for the images at `rows` to the sum y (images, ...), which is None at first."""
    if isinstance(rows, bool):
        if y is None:
            return term
        return y + term if torch.is_grad_enabled() else y.add_(term)
    if y is not None:
        return y.index_add(0, rows, term) if torch.is_grad_enabled() else y.index_add_(0, rows, term)
    is_last = term.dim() == 4 and term.is_contiguous(memory_format=torch.channels_last)
    layout = torch.channels_last if is_last else torch.contiguous_format
    zeros = torch.zeros_like(term[:1]).expand(images, *term.shape[1:]).contiguous(memory_format=layout)
    return put(zeros, rows, term, over=True)  # the zeros are a new tensor
