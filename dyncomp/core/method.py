"""What a method is: where its ops go, how it is trained, where it can be set."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor, nn

from dyncomp.core.backbone import Backbone
from dyncomp.core.net import Output
from dyncomp.spec import Configurable

Loss = Callable[[Output, Tensor, float], Tensor]
"""loss(output, labels (B,), progress): progress is how much of the stage is done, from 0 to 1."""


@dataclass(frozen=True)
class Stage:
    """One part of a method's training.

    `share` of the whole budget; `loss`; `learns`: patterns of the parameters' names that train (the others are held);
    `sampling`: gates draw their decisions instead of thresholding them; `learning_rate`: factor on the recipe's own;
    `hold_statistics`: batch norms use their running statistics and leave them as they are.
    """

    name: str
    share: float
    loss: Loss
    learns: tuple[str, ...] = ("*",)
    sampling: bool = False
    learning_rate: float = 1.0
    hold_statistics: bool = False

    def trains(self, parameter: str) -> bool:
        """Whether the parameter of that name learns in this stage."""
        return any(fnmatchcase(parameter, pattern) for pattern in self.learns)


class Method(Configurable, ABC):
    """A way to make a backbone dynamic. Its dataclass fields are its hyperparameters.

    Only `build` is required: it puts ops into a fresh backbone. `examples` are further specs that the conformance suite
    tries; `all_on_is_plain` claims that with every unit on the network is its plain backbone, which it then holds.
    """

    examples: ClassVar[tuple[str, ...]] = ()
    all_on_is_plain: ClassVar[bool] = False

    @abstractmethod
    def build(self, new: Callable[[], Backbone]) -> nn.Module:
        """The network with its ops; `new()` gives a fresh backbone. Raises CannotAttach where there is no place."""

    def loss(self, output: Output, labels: Tensor) -> Tensor:
        """The training loss of the default stage: cross-entropy."""
        return F.cross_entropy(output.logits.float(), labels)

    def stages(self) -> Sequence[Stage]:
        """The parts of the training, in order; shares add up to 1."""
        return (Stage("train", 1.0, lambda output, labels, progress: self.loss(output, labels)),)
