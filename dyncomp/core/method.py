"""What a method is: where its ops go, how it is trained, where it can be set."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor, nn

from dyncomp.core.backbone import Backbone
from dyncomp.core.initial import PLAIN, Source, adopt
from dyncomp.core.net import Net, Output
from dyncomp.core.points import Point, Seen
from dyncomp.core.stage import Batches, Stage
from dyncomp.spec import Configurable


class Method(Configurable, ABC):
    """A way to make a backbone dynamic. Its dataclass fields are its hyperparameters.

    Only `build` is required: it puts ops into a fresh backbone. `examples` are further specs that the conformance suite
    tries; `all_on_is_plain` claims that with every unit on the network is its plain backbone, which it then holds.
    """

    examples: ClassVar[tuple[str, ...]] = ()
    all_on_is_plain: ClassVar[bool] = False

    @property
    def control_of(self) -> str:
        """For a control the spec of the method that it is a control of; "" for what is none."""
        return ""

    @abstractmethod
    def build(self, new: Callable[[], Backbone]) -> nn.Module:
        """The network with its ops; `new()` gives a fresh backbone. Raises CannotAttach where there is no place."""

    def sources(self) -> Mapping[str, Source]:
        """The networks that are trained before this method's own, by name; none by default."""
        return {}

    def inherit(self, net: Net, trained: Mapping[str, Net], batches: Batches) -> None:
        """Take from the trained networks of `sources`, by name, what the training of `net` begins with.

        Called once, before the first stage; by default the weights of the plain backbone, if it is among them.
        `batches()` goes once over the training split.
        """
        if PLAIN in trained:
            adopt(net, trained[PLAIN])

    def loss(self, output: Output, labels: Tensor) -> Tensor:
        """What of the training loss is not about gates: by default cross-entropy. The default stage's whole loss."""
        return F.cross_entropy(output.logits.float(), labels)

    def stages(self) -> Sequence[Stage]:
        """The parts of the training, in order; shares add up to 1."""
        return (Stage("train", 1.0, lambda output, labels, progress: self.loss(output, labels)),)

    def points(self, net: Net, seen: Seen) -> Sequence[Point]:
        """Operating points of the trained network, chosen on the calibration split; it is left at the first one."""
        return ()
