"""SkipNet: residual blocks that images skip, gate by gate (Wang, Yu, Dou, Darrell, Gonzalez 2018, arXiv:1711.09485)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dyncomp.core import Backbone, Method, Output, Source, Stage, Trace, hard_decision, pretrained
from dyncomp.core.losses import cross_entropy, off_budget
from dyncomp.ops import FeedForwardGate, Gated, RecurrentGate, shared_recurrence
from dyncomp.ops.balance import binary_information
from dyncomp.ops.placement import residual_blocks
from dyncomp.registry import register_method
from dyncomp.spec import option

PAPERS_SHARE = 0.135  # of the steps for the hybrid stage: 10,000 of 74,000, official code
EMBEDDING = 10  # the recurrent gate's projection and hidden state (section 3.1)


@register_method("skipnet", paper="arXiv:1711.09485")
@dataclass(frozen=True)
class SkipNet(Method):
    """Skips residual blocks image by image; each block's gate reads the features that enter it.

    The first block is never gated. Stage 1 trains everything with hard gates and straight-through gradients; stage 2 is
    the paper's hybrid: decisions are drawn, the network learns by cross-entropy, the gates by REINFORCE with a reward
    of alpha / gates for each block skipped and -cross-entropy at the end. The paper sets the trade-off by alpha alone:
    `target=None` does that. With a `target`, a budget loss on the priced multiply-adds sets it instead, in both stages,
    and alpha is not used; stage 2 is left out then, because at a rate at which its gates moved (0.02) it cost accuracy:
    91.8 % at 0.69 of the multiply-adds against 92.7 % at 0.60 without, both behind a pretraining of half the budget. As
    in the official code on CIFAR, stage 1 begins with random weights; it takes 64,000 steps there, and stage 2 10,000
    at a thousandth of the rate; stage 2 leaves the statistics of the normalisations as they are, where the code goes on
    estimating them (benchmarks/suites/skipnet-cifar10.toml). A trained backbone to begin with is worse at an equal
    budget (`pretraining=0.5`): 92.7 % at 0.60 against 93.4 %, where the plain backbone has 93.8 %. (All on
    Fashion-MNIST, cifar_resnet20(width=0.5), 10 epochs, calibration split, one seed.)

    Against collapse (with a target; none of it is in the paper): gates that begin open (`start`), pressure that grows
    from nothing over the first half of stage 1, and a budget loss that acts on the decisions of use and pulls back when
    more is skipped than asked.
    """

    examples: ClassVar[tuple[str, ...]] = ('skipnet(gate="ff1")', 'skipnet(gate="ff2", target=None)')
    all_on_is_plain: ClassVar[bool] = True

    gate: Literal["rnn", "ff1", "ff2"] = option("rnn", "recurrent gate, or the paper's FFGate-I or FFGate-II")
    target: float | None = option(
        0.6, "multiply-adds as a share of the plain backbone's; None: alpha decides", gt=0.0, le=1.0
    )
    alpha: float = option(0.1, "reward for skipping all gated blocks (target=None)", ge=0.0)
    rl_weight: float = option(0.01, "weight of the policy gradient in stage 2", ge=0.0)
    hybrid: float | None = option(
        None, "share of the training for stage 2; None: none with a target, else the paper's 0.135", ge=0.0, lt=1.0
    )
    hybrid_rate: float = option(0.001, "learning rate of stage 2, as a factor on the recipe's", gt=0.0)
    budget_weight: float = option(10.0, "weight of the budget loss", ge=0.0)
    balance: float = option(0.0, "weight of the mutual information of image and decision (not the paper's)", ge=0.0)
    start: float = option(0.9, "probability with which gates begin open", gt=0.5, lt=1.0)
    pretraining: float = option(0.0, "share of the budget that trains the plain backbone beforehand", ge=0.0, lt=1.0)

    def build(self, new: Callable[[], Backbone]) -> nn.Module:
        """See `Method.build`."""
        backbone = new()
        gate = self._gates()
        for name, block in residual_blocks(backbone, "skipnet", behind=1).items():
            backbone.swap(name, Gated(block, gate(block.in_channels)))
        return backbone

    def _gates(self) -> Callable[[int], nn.Module]:
        if self.gate == "rnn":
            cell, head = shared_recurrence(EMBEDDING, self.start)
            return lambda channels: RecurrentGate(channels, cell, head)
        return lambda channels: FeedForwardGate(channels, self.gate == "ff1", self.start)

    def sources(self) -> Mapping[str, Source]:
        """The plain backbone, trained, where some of the budget is for it."""
        return pretrained(self.pretraining)

    def stages(self) -> Sequence[Stage]:
        """See `Method.stages`."""
        share = (PAPERS_SHARE if self.target is None else 0.0) if self.hybrid is None else self.hybrid
        supervised = Stage("supervised", 1 - share, self._supervised)
        if share == 0:
            return (supervised,)
        hybrid = Stage(
            "hybrid",
            share,
            self._hybrid,
            sampling=True,
            learning_rate=self.hybrid_rate,
            restarts=True,
            hold_statistics=("*",),
        )
        return supervised, hybrid

    def _supervised(self, output: Output, labels: Tensor, progress: float) -> Tensor:
        pressure = min(1.0, progress / 0.5)
        return cross_entropy(output, labels) + self._pressed(output, pressure)

    def _hybrid(self, output: Output, labels: Tensor, progress: float) -> Tensor:
        errors = F.cross_entropy(output.logits.float(), labels, reduction="none")  # (B,)
        policy = self.rl_weight * self._policy(output, errors)
        return errors.mean() + policy + self._pressed(_thresholded(output), 1.0)

    def _pressed(self, output: Output, pressure: float) -> Tensor:
        """What a target adds to the loss: budget and balance; nothing without one, as in the paper."""
        if self.target is None:
            return output.logits.new_zeros(())
        off = self.budget_weight * off_budget(output, self.target, pressure)
        return off - self.balance * pressure * _variety(output) if self.balance else off

    def _policy(self, output: Output, errors: Tensor) -> Tensor:
        """REINFORCE (paper, eq. 3 to 5): each gate is answerable for the rewards from it to the end, undiscounted.

        Summed over the batch, as the official code does. The terminal reward is set against the batch's mean, which
        leaves the expected gradient as it is and takes most of its noise (an addition to the paper).
        """
        reward = 0.0 if self.target is not None else self.alpha / len(output.trace)
        end = -(errors - errors.mean()).detach()  # (B,)
        skipped = torch.cat([1 - d.used.detach() for d in output.trace.values()], dim=1)  # (B, T)
        to_come = skipped.flip(1).cumsum(1).flip(1) * reward + end[:, None]  # (B, T)
        chances = torch.cat([d.probability for d in output.trace.values()], dim=1).float()
        taken = torch.where(skipped > 0.5, 1 - chances, chances).clamp_min(1e-6)  # (B, T)
        return -(to_come * taken.log()).sum()


def _thresholded(output: Output) -> Output:
    """The output with the decisions of use instead of the drawn ones: these are what a budget is about."""
    used = {site: hard_decision(d.probability, sampling=False) for site, d in output.trace.items()}
    return replace(output, trace=Trace(used, output.trace.parents, output.trace.images))


def _variety(output: Output) -> Tensor:
    """How much the gates' decisions depend on the image."""
    chances, used = (torch.cat([getattr(d, k) for d in output.trace.values()], dim=1) for k in ("probability", "used"))
    return binary_information(chances, used)
