"""Routed: branches of which each image takes some."""

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
    """y = sum over branches j of w_j * branch_j(x), over the `most` best branches of each image (top-k).

    `gate` maps x to scores (B, U), which softmax turns into chances. The weights are the chances of the branches
    used, made to add up to 1. With `soft`, training weighs all branches by their chances (Ioannou et al. 2016,
    arXiv:1603.01250, section 3), while `used` stays the hard choice that is priced; between 0 and 1 it is the share of
    the soft weights, the rest are those of use, and a stage may move it from one to the other. A unit is a branch; all
    branches give features of one shape. In training the scores are said under the site's name.
    """

    def __init__(self, branches: Sequence[nn.Module], gate: nn.Module, most: int, soft: float) -> None:
        super().__init__()
        self.units = len(branches)
        self.branches = nn.ModuleList(branches)
        self.gate = gate
        self.most = most
        self.soft = soft

    def decide(self, x: Tensor) -> Decision:
        """The best `most` branches of each image."""
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
        """Every branch on all images, summed by weight."""
        y: Tensor | None = None
        for unit, branch in enumerate(self.branches):
            with self.tape.within(decision.used[:, unit]):
                output = self.unit(unit, branch, x)
            term = output * _column(decision.weight, unit, output)
            y = term if y is None else y + term
        assert y is not None  # there is at least one branch
        return y

    def sparse(self, x: Tensor, decision: Decision) -> Tensor:
        """Each branch on its images, packed into a batch of their own."""
        y: Tensor | None = None
        for unit, rows in enumerate(self.moving(rows_of_each, decision.used, images_in(x))):
            if isinstance(rows, bool) and not rows:
                continue
            term = self._weighed(unit, x, rows, decision.weight)
            y = self.moving(_added, y, rows, term, len(decision.used))
        if y is None:  # an empty batch: any branch gives the right shape
            y = self.unit(0, self.branches[0], x)
        return y

    def branched(self, x: Tensor, decision: Decision) -> Tensor:
        """As many branches as an image takes, each picked in the graph: see `Op.branched`."""
        if self.most == self.units:
            return self.dense(x, decision)
        picked = decision.used.topk(self.most, dim=1).indices[0]  # (most,)
        y: Tensor | None = None
        for place in range(self.most):
            output = self._picked(picked[place], 0, x)
            term = output * decision.weight[0].index_select(0, picked[place : place + 1])
            y = term if y is None else y + term
        assert y is not None  # an image takes at least one branch
        return y

    def _picked(self, index: Tensor, first: int, x: Tensor) -> Tensor:
        """The output of the branch at `index` (), which is none of those before `first`."""
        if first == self.units - 1:
            output: Tensor = self.branches[first](x)
            return output

        def run(x: Tensor, index: Tensor) -> Tensor:
            y: Tensor = self.branches[first](x)
            return y

        def others(x: Tensor, index: Tensor) -> Tensor:
            return self._picked(index, first + 1, x)

        return either(index == first, self.branches, run, others, (x, index), self.tape)

    def _weighed(self, unit: int, x: Tensor, rows: Rows, weight: Tensor) -> Tensor:
        """The branch's share for these images."""
        if isinstance(rows, bool):
            output = self.unit(unit, self.branches[unit], x)
        else:
            weight = weight.index_select(0, rows)
            with self.tape.narrow(rows):
                output = self.unit(unit, self.branches[unit], self.moving(take, x, rows))
        term: Tensor = output * _column(weight, unit, output)
        return term

    def follow(self, make: Callable[[int, bool], Rule]) -> Rule:
        """See `Op.follow`; of the branches those are taken whose scores are the greatest."""
        rule = make(self.units, self.most > 1)  # the share of a single branch is 1 whatever its weight
        self.gate = _RuledScores(rule, self.most)
        return rule

    def unit_parts(self) -> tuple[nn.Module | None, ...]:
        """The branches."""
        return tuple(self.branches)

    def least(self) -> Tensor:
        """One branch."""
        return torch.eye(self.units)[0]

    def always(self) -> Tensor:
        """None, unless all branches are taken."""
        return torch.full((self.units,), float(self.most == self.units))

    def forced(self, used: Tensor, weight: Tensor) -> Decision:
        """The wish, weights made to add up to 1; an image without a branch gets the one of the greatest weight."""
        used = with_strongest(used, weight)
        shares = _shares((weight + 1e-3) * used)
        return Decision(used, shares, shares)


class _RuledScores(nn.Module):
    """Scores of branches by a rule: the softmax over the branches taken gives the rule's weights, as shares."""

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
"""by how much a score lies below those of branches that a rule takes; of their chances nothing is left"""


def harden(net: Net, progress: float, at_last: float) -> None:
    """Move all weights from soft ones to those of use between a quarter and three quarters of a stage.

    `at_last` is the share of the soft ones that stays.
    """
    for op in net.sites.values():
        assert isinstance(op, Routed)
        op.soft = min(1.0, max(at_last, 1.5 - 2 * progress))


def _shares(weight: Tensor) -> Tensor:
    return weight / weight.sum(dim=1, keepdim=True)


def _column(weight: Tensor, unit: int, like: Tensor) -> Tensor:
    return weight[:, unit].to(like.dtype).view(-1, *[1] * (like.dim() - 1))  # (B, 1, ...)


def _added(y: Tensor | None, rows: Rows, term: Tensor, images: int) -> Tensor:
    """The sum so far (images, ...), None at first, with a branch's share for the images at `rows`."""
    if isinstance(rows, bool):
        if y is None:
            return term
        return y + term if torch.is_grad_enabled() else y.add_(term)
    if y is not None:
        return y.index_add(0, rows, term) if torch.is_grad_enabled() else y.index_add_(0, rows, term)
    return put(_zeros(term, images), rows, term, over=True)  # the zeros are new memory


def _zeros(like: Tensor, images: int) -> Tensor:
    """Zeros for that many images, in `like`'s own layout."""
    return (
        torch.zeros_like(like[:1])
        .expand(images, *like.shape[1:])
        .contiguous(
            memory_format=torch.channels_last
            if like.dim() == 4 and like.is_contiguous(memory_format=torch.channels_last)
            else torch.contiguous_format
        )
    )
