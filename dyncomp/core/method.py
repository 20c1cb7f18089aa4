"""The base class of methods: where ops are placed, how the network is trained, its operating points."""

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
    """A way to make a backbone dynamic. Its dataclass fields are the hyperparameters.

    Only `build` is required: it puts ops into a fresh backbone. `examples`: further specs for the conformance suite.
    `all_on_is_plain`: the network with every unit on equals its plain backbone; the conformance suite tests it.
    """

    examples: ClassVar[tuple[str, ...]] = ()
    all_on_is_plain: ClassVar[bool] = False

    @property
    def control_of(self) -> str:
        """The spec of the method that this one is a control for; "" for a method that is no control."""
        return ""

    @abstractmethod
    def build(self, new: Callable[[], Backbone]) -> nn.Module:
        """The network with its ops, made from a fresh backbone, `new()`. Raises CannotAttach if no op fits into it."""

    def sources(self) -> Mapping[str, Source]:
        """The networks to be trained before the method's own, by name; by default none."""
        return {}

    def inherit(self, net: Net, trained: Mapping[str, Net], batches: Batches) -> None:
        """Initialise `net` from the trained networks of `sources`, by name; called once, before the first stage.

        By default copies the weights of the plain backbone, if it is a source. `batches()` iterates once over the
        training split.
        """
        if PLAIN in trained:
            adopt(net, trained[PLAIN])

    def loss(self, output: Output, labels: Tensor) -> Tensor:
        """The training loss without terms for gates, by default cross-entropy; the whole loss of the default stage."""
        return F.cross_entropy(output.logits.float(), labels)

    def stages(self) -> Sequence[Stage]:
        """The stages of training, in order; their shares add up to 1."""
        return (Stage("train", 1.0, lambda output, labels, progress: self.loss(output, labels)),)

    def points(self, net: Net, seen: Seen) -> Sequence[Point]:
        """Operating points of the trained network, chosen on the calibration split; the first one is set afterwards."""
        return ()
