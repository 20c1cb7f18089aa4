"""What a method is: where its ops go, how it is trained, where it can be set."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor, nn

from dyncomp.core.backbone import Backbone
from dyncomp.core.net import Net, Output
from dyncomp.core.points import Point, Seen
from dyncomp.core.stage import Stage
from dyncomp.spec import Configurable


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

    def points(self, net: Net, seen: Seen) -> Sequence[Point]:
        """Operating points of the trained network, chosen on the calibration split; it is left at the first one."""
        return ()
