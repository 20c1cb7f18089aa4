"""Ensemble of independent networks, whose members all vote or are asked one after the other (arXiv:1612.01474)."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dyncomp.core import Backbone, Method, Net, Output, Point, Seen
from dyncomp.ops import Certainty, Exit, Judge, Voter
from dyncomp.ops.calibrate import exit_points
from dyncomp.ops.exits import Agreement, Ensemble
from dyncomp.registry import register_method
from dyncomp.spec import option

UNTUNED = 0.9
"""threshold of a cascade until the calibration split chooses some"""


@register_method("model_ensemble", paper="arXiv:1612.01474")
@dataclass(frozen=True)
class ModelEnsemble(Method):
    """Independent networks that differ by their first weights alone; the mean of their probabilities, or their votes.

    All members learn from the same batches, each by its own cross-entropy (Lakshminarayanan et al. 2017, without their
    adversarial examples). The losses are added up, so no member's gradient depends on another's; only where the recipe
    clips the gradient is its length that of all members together.

    As a cascade (after Wang et al. 2022, arXiv:2012.01988) the members are asked in turn, and an image leaves when the
    answer of those asked so far is sure enough: by the greatest mean probability, or, by majority, when they agree with
    a mean probability that is high enough (an interpretation). In training nobody leaves, so there is nothing that can
    collapse.
    """

    examples: ClassVar[tuple[str, ...]] = (
        "model_ensemble(members=2, cascade=True)",
        'model_ensemble(combine="majority", threshold=0.3)',
    )

    members: int = option(3, "networks", ge=2, le=100)
    combine: Literal["average", "majority"] = option("average", "mean of the probabilities, or votes")
    cascade: bool = option(False, "ask the next member only when unsure")
    threshold: float | None = option(
        None, "a cascade that is sure above this probability; None: the calibration split chooses", ge=0.0, le=1.0
    )
    tolerance: float = option(
        0.5, "percent of the images that chosen thresholds may answer unlike all members together", ge=0.0
    )

    def build(self, new: Callable[[], Backbone]) -> nn.Module:
        """Fresh backbones side by side, or each as the rest of the one before."""
        members = [new() for _ in range(self.members)]
        if not self._cascades:
            return Ensemble(members, self.combine)
        voters = [Voter(member, number, self.combine) for number, member in enumerate(members, start=1)]
        chained: nn.Module = voters.pop()
        while voters:
            start = UNTUNED if self.threshold is None else self.threshold
            chained = Exit(voters.pop(), chained, self._judge(), start, head_is_gate=False)
        return nn.Sequential(OrderedDict(members=chained))

    @property
    def _cascades(self) -> bool:
        return self.cascade or self.threshold is not None

    def _judge(self) -> Judge:
        return Certainty("confidence") if self.combine == "average" else Agreement()

    def loss(self, output: Output, labels: Tensor) -> Tensor:
        """The sum of the members' own cross-entropies."""
        return torch.stack([F.cross_entropy(output.said[name].float(), labels) for name in self._voters()]).sum()

    def _voters(self) -> list[str]:
        """Under which names the members say their own logits."""
        if not self._cascades:
            return [f"voters.{number}" for number in range(self.members)]
        rests = ["members" + ".rest" * number for number in range(self.members)]
        return [*(f"{site}.head" for site in rests[:-1]), rests[-1]]

    def points(self, net: Net, seen: Seen) -> Sequence[Point]:
        """See `exit_points`; what is right is what all members answer. A given threshold replaces the chosen ones.

        Against the labels, one member that happens to do as well as all on the few images of the calibration split
        would be enough. Answers that agree keep the accuracy too: it falls by `tolerance` points at most.
        """
        if not self._cascades:
            return ()
        default, *others = exit_points(net, replace(seen, labels=seen.logits.argmax(dim=1)), self.tolerance)
        if self.threshold is not None:
            default = replace(default, thresholds=dict.fromkeys(default.thresholds, self.threshold))
        return [default, *others]
