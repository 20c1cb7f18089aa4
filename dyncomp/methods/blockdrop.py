"""BlockDrop: a policy network drops residual blocks before the first one runs (Wu et al. 2018, arXiv:1711.08393)."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from dyncomp.core import Backbone, Decision, Method, Net, Output, Source, Stage, hard_decision, pretrained
from dyncomp.core.losses import cross_entropy
from dyncomp.methods._policy import Policy
from dyncomp.ops import Planned
from dyncomp.ops.balance import binary_information
from dyncomp.ops.placement import residual_blocks
from dyncomp.registry import register_method
from dyncomp.spec import option

PLAN = "plan"
BOUND = 0.2  # section 3.3: p * 0.8 + (1 - p) * 0.2


@register_method("blockdrop", paper="arXiv:1711.08393")
@dataclass(frozen=True)
class BlockDrop(Method):
    """A policy network sees the image once and decides which residual blocks are kept; its cost counts.

    It begins with the trained plain backbone. First the policy learns alone, blocks put at its disposal one by one from
    the end while earlier ones are kept (curriculum, over the first half of the stage); then both. The policy learns by
    REINFORCE on decisions drawn from bounded chances 0.8 p + 0.2 (1 - p), with reward 1 - (kept / K)^2 for a right
    answer and -`penalty` for a wrong one, less the reward of the thresholded policy on the same images (self-critical
    baseline); in the joint stage the backbone learns by cross-entropy under the drawn decisions. Sums over the batch in
    the official code are means here: Adam cares little. The entropy bonus is that of a coin, where the code has
    -p log p alone, which is greatest at p = 1/e.

    The code trains for up to thousands of epochs with rates 1e-3 and 1e-4, and with a penalty of 1 in the
    curriculum and 5 (ImageNet) or 10 (CIFAR-10) later. For a few epochs the rates are larger, there is one penalty,
    and the bound falls from 0.2 to 0 in the joint stage, so that the backbone ends up trained for the decisions of
    use. Measured (Fashion-MNIST, cifar_resnet20(width=0.5), width=0.25, 10 epochs, calibration split, one seed;
    static 93.8 %): 92.7 % at 0.96x of static's multiply-adds with penalty 5, 91.8 % at 0.61x with 2, 91.0 % at
    0.46x with 1; 92.5 % at 0.73x with 2 and `start=0.9`; with 2 and SGD in the joint stage 92.4 % at 0.84x; with 2,
    `start=0.8` and a bound that is 0 from the middle of the joint stage on 91.5 % at 0.73x. They end with one or
    two routes. An earlier form normalised the pooled features in front of the policy's last layer so that routes
    differ: 44 routes and 89.9 % at 0.55x, 86.5 % at 0.67x where the cross-entropy was that of thresholded
    decisions.

    The published numbers count a multiply-add twice, policy included: ResNet-101's "15.6 GFLOPs" are 7.80 G MACs here,
    and BlockDrop's 12.5 are 6.25 G. So "12.5" must not be held against the "7.6 GFLOPs", MACs, of a plain ResNet-101.
    The policy for small images costs 12.24 M MACs at 32 x 32, a lot beside a small backbone: `width` makes it narrower.

    Against collapse: a trained backbone, the curriculum, bounded chances and the paper's entropy bonus, which keep
    every block tried.
    """

    examples: ClassVar[tuple[str, ...]] = ("blockdrop(width=0.25, balance=0.5)",)
    all_on_is_plain: ClassVar[bool] = True

    penalty: float = option(2.0, "what a wrong answer costs (code: 1 to 10)", ge=0.0)
    entropy: float = option(0.1, "weight of the entropy bonus in the curriculum", ge=0.0)
    balance: float = option(0.0, "weight of the mutual information of image and decision (not the paper's)", ge=0.0)
    width: float = option(1.0, "factor on the policy network's channels", gt=0.0)
    start: float = option(0.5, "chance with which blocks are kept at first", gt=0.0, lt=1.0)
    rate: float = option(3e-3, "Adam's learning rate in the curriculum (paper: 1e-3)", gt=0.0)
    joint_rate: float = option(3e-3, "Adam's learning rate in the joint stage (paper: 1e-4)", gt=0.0)

    pretraining: float = option(0.5, "share of the budget that trains the plain backbone beforehand", gt=0.0, lt=1.0)

    def build(self, new: Callable[[], Backbone]) -> nn.Module:
        """See `Method.build`."""
        backbone = new()
        names = list(residual_blocks(backbone, "blockdrop"))
        assert backbone.image_shape is not None  # families' `make` notes it
        policy = Policy(backbone.image_shape, len(names), self.width, self.start)
        return nn.Sequential(OrderedDict([(PLAN, Planned(backbone, names, policy, BOUND))]))

    def sources(self) -> Mapping[str, Source]:
        """The plain backbone, trained."""
        return pretrained(self.pretraining)

    def stages(self) -> Sequence[Stage]:
        """See `Method.stages`."""
        policy, backbone = f"model.{PLAN}.policy.*", f"model.{PLAN}.backbone.*"
        return (
            Stage(
                "curriculum",
                0.3,
                self._curriculum,
                learns=(policy,),
                sampling=True,
                adam=self.rate,
                hold_statistics=(backbone,),
                adjust=_open_from_the_end,
            ),
            Stage("joint", 0.7, self._joint, sampling=True, adam=self.joint_rate, adjust=_loosen),
        )

    def _curriculum(self, output: Output, labels: Tensor, progress: float) -> Tensor:
        chances = output.trace[PLAN].probability.float()  # (B, K); blocks that are not open yet have 1
        return self._policy(output, labels) - self.entropy * _entropy(chances).sum(dim=1).mean()

    def _joint(self, output: Output, labels: Tensor, progress: float) -> Tensor:
        return self._policy(output, labels) + cross_entropy(output, labels)

    def _policy(self, output: Output, labels: Tensor) -> Tensor:
        """REINFORCE with the self-critical baseline (section 3.3), mean over the batch; less what `balance` adds."""
        drawn = output.trace[PLAN]
        kept, chances = drawn.used.detach(), drawn.probability.float()  # (B, K)
        greedy = hard_decision(drawn.probability.detach(), sampling=False)
        baseline = output.again({PLAN: Decision(greedy.used, greedy.used, greedy.used)})
        advantage = self.reward(kept, output.logits, labels) - self.reward(greedy.used, baseline.logits, labels)
        taken = torch.where(kept > 0.5, chances, 1 - chances).clamp_min(1e-6)  # (B, K)
        loss = -(advantage * taken.log().sum(dim=1)).mean()
        return loss - self.balance * binary_information(chances, chances) if self.balance else loss

    def reward(self, kept: Tensor, logits: Tensor, labels: Tensor) -> Tensor:
        """1 - (share of blocks kept)^2 where the answer is right, else -penalty (eq. 3), (B,)."""
        right = logits.argmax(dim=1) == labels
        return torch.where(right, 1 - kept.float().mean(dim=1).square(), -self.penalty)


def _open_from_the_end(net: Net, progress: float) -> None:
    """Over the first half of the stage the policy gets one block after the other, the last block first."""
    plan = _plan(net)
    plan.bound = BOUND
    plan.first_free = max(0, plan.units - 1 - int(2 * progress * plan.units))


def _loosen(net: Net, progress: float) -> None:
    """Every block is at the policy's disposal, and what is drawn becomes what the policy would do in use."""
    plan = _plan(net)
    plan.first_free = 0
    plan.bound = BOUND * (1 - progress)


def _plan(net: Net) -> Planned:
    plan = net.sites[PLAN]
    assert isinstance(plan, Planned)
    return plan


def _entropy(chances: Tensor) -> Tensor:
    """Of coins with these chances, in nats."""
    inside = chances.clamp(1e-6, 1 - 1e-6)
    return -(inside * inside.log() + (1 - inside) * (1 - inside).log())
