"""TreeNets: an ensemble whose members share their first layers (Lee et al. 2015, arXiv:1511.06314)."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dyncomp.core import Backbone, Method, Output, chain
from dyncomp.errors import CannotAttach, InvalidValue
from dyncomp.ops.exits import Ensemble
from dyncomp.registry import register_method
from dyncomp.spec import option


@register_method("branch_ensemble", paper="arXiv:1511.06314")
@dataclass(frozen=True)
class BranchEnsemble(Method):
    """One trunk, and branches that each classify what it sees; the answer is the mean of their probabilities.

    All branches run for every image, so the cost is trunk + branches * rest, and nothing can collapse. Each branch
    learns by its own cross-entropy, and the trunk by their sum; the paper's other loss, that of the mean answer, makes
    branches lean on each other. Its losses for diversity are not here. Where the trunk ends by default is
    an interpretation of the paper's finding that a short one is best.
    """

    examples: ClassVar[tuple[str, ...]] = ('branch_ensemble(members=2, split=2, learns_by="ensemble")',)

    members: int = option(3, "branches", ge=2, le=100)
    split: float = option(0.2, "blocks in the trunk: their share below 1 (at least one), else their number", gt=0.0)
    learns_by: Literal["independent", "ensemble"] = option("independent", "each branch's own loss, or the mean's")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.split >= 1 and not self.split.is_integer():
            raise InvalidValue(f"branch_ensemble: split={self.split} is neither a share nor a number; give 0.2, or 2")

    def build(self, new: Callable[[], Backbone]) -> nn.Module:
        """The first layers of one backbone, the others of that one and of fresh ones. Raises CannotAttach."""
        backbones = [new() for _ in range(self.members)]
        first = backbones[0]
        names = [name for name, _ in first.layers()]
        end = names.index(first.blocks[self._trunk(first) - 1]) + 1
        branches = Ensemble([chain(backbone.layers()[end:]) for backbone in backbones], "average")
        return nn.Sequential(OrderedDict(trunk=chain(first.layers()[:end]), branches=branches))

    def _trunk(self, backbone: Backbone) -> int:
        """How many blocks all branches share."""
        blocks = len(backbone.blocks)
        shared = int(self.split) if self.split >= 1 else max(1, int(self.split * blocks))
        if shared > blocks:
            raise CannotAttach(
                f"branch_ensemble: split={shared}, but {backbone.name} has {blocks} blocks; give 1 to {blocks}, "
                "or a share of them"
            )
        return shared

    def loss(self, output: Output, labels: Tensor) -> Tensor:
        """The sum of the branches' own cross-entropies, or the cross-entropy of their mean answer."""
        if self.learns_by == "ensemble":
            return F.cross_entropy(output.logits.float(), labels)
        own = [output.said[f"branches.voters.{number}"].float() for number in range(self.members)]
        return torch.stack([F.cross_entropy(logits, labels) for logits in own]).sum()
