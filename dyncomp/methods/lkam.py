"""LKAM: a switch for each filter, or group of filters, of a layer (Theodorakopoulos et al. 2017, arXiv:1701.05221)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from dyncomp.core import Backbone, Decision, Method, Net, Output, Source, Stage, pretrained
from dyncomp.core.losses import cross_entropy, off_budget
from dyncomp.core.op import with_strongest
from dyncomp.ops import Switch, SwitchDescription
from dyncomp.ops.balance import binary_information
from dyncomp.ops.filtered_placement import switch_backbone
from dyncomp.ops.gates import as_chance, open_bias
from dyncomp.registry import register_method
from dyncomp.spec import option

RAMP = 0.4
"""share of the training over which the pressure grows from nothing to its full height"""


@register_method("lkam", paper="arXiv:1701.05221")
@dataclass(frozen=True)
class Lkam(Method):
    """Switches filters image by image: each layer's switching module reads the maps that come into the layer.

    The paper's module is a 1x1 convolution of the incoming maps to one map per filter, global average pooling, a
    sigmoid. A mean of linear maps is the linear map of the means, so the maps are pooled first and one linear layer
    follows: the same number for H * W times fewer multiply-adds.

    A filter that is not used saves its own multiply-adds in this layer (and its depthwise ones, if any follow), and
    those of the next layer that would read it; where both layers have switches, what is left of the next layer is the
    share of the filters used here times the share used there. A module's own cost is counted.

    Switches act where one layer alone reads the filters: inside the bodies of residual blocks, and along chains of
    plain blocks. Each module adds gain / (2 m) * sum(sw) over its m switches to the loss, a mean over the batch.

    Interpretations: the paper multiplies by the soft switches in training and thresholds them at 0.5 in use, which the
    network has never seen. Here the switches are thresholded in the forward pass, too, for the last part of the
    training (`hard`), and the gradient goes straight through (`hard=0`: never, as in the paper). The gain sets what
    is used only indirectly; with a `target` a loss on the priced multiply-adds does it (None: the gain alone, as in the
    paper). Where every switch of a layer is off for an image, the strongest stays on.

    Training begins with random weights (an interpretation): a trained backbone to begin with
    (`pretraining=0.5`) was worse at an equal budget, 92.7 % against 93.4 %, both at 0.58 of the multiply-adds
    (Fashion-MNIST, cifar_resnet20(width=0.5), 10 epochs, calibration split, one seed).

    Against collapse, none of it in the paper: switches that begin open (`start`), and pressure that grows from nothing
    over the first part of the training.
    """

    examples: ClassVar[tuple[str, ...]] = ("lkam(groups=4, target=None, hard=0.0, gain=1.0)",)
    all_on_is_plain: ClassVar[bool] = True

    target: float | None = option(
        0.6, "multiply-adds as a share of the plain backbone's; None: the gain decides", gt=0.0, le=1.0
    )
    gain: float = option(0.1, "G, weight of the mean of a module's switches", ge=0.0)
    groups: int = option(1, "neighbouring filters per switch, as far as they divide a layer's", ge=1)
    hard: float = option(
        0.5, "share of the training with thresholded switches; 0: none, as in the paper", ge=0.0, lt=1.0
    )
    budget_weight: float = option(10.0, "weight of the budget loss", ge=0.0)
    balance: float = option(0.0, "weight of the mutual information of image and decision (not the paper's)", ge=0.0)
    start: float = option(0.9, "value at which switches begin", gt=0.5, lt=1.0)
    pretraining: float = option(0.0, "share of the budget that trains the plain backbone beforehand", ge=0.0, lt=1.0)

    def build(self, new: Callable[[], Backbone]) -> nn.Module:
        """See `Method.build`."""
        return switch_backbone(new(), self._module, method="lkam")

    def _module(self, producer: nn.Conv2d) -> Switch:
        return SwitchingModule(producer, self.groups, self.start)

    def sources(self) -> Mapping[str, Source]:
        """The plain backbone, trained, where some of the budget is for it."""
        return pretrained(self.pretraining)

    def stages(self) -> Sequence[Stage]:
        """See `Method.stages`."""
        return (Stage("train", 1.0, self._loss, adjust=self._threshold),)

    def _threshold(self, net: Net, progress: float) -> None:
        """Let the switches be thresholded in training, too, towards the end."""
        for module in net.modules():
            if isinstance(module, SwitchingModule):
                module.hard = progress >= 1 - self.hard

    def _loss(self, output: Output, labels: Tensor, progress: float) -> Tensor:
        pressure = min(1.0, progress / RAMP)
        loss = cross_entropy(output, labels)
        switches = [decision.probability.float() for decision in output.trace.values()]  # (B, U) each
        activity = torch.stack([sw.mean() for sw in switches]).sum()  # sum(sw) / m, summed over the modules
        loss = loss + pressure * self.gain / 2 * activity
        if self.target is None:
            return loss
        loss = loss + self.budget_weight * off_budget(output, self.target, pressure)
        if not self.balance:
            return loss
        used = torch.cat([decision.used for decision in output.trace.values()], dim=1)
        return loss - self.balance * pressure * binary_information(torch.cat(switches, dim=1), used)


class SwitchingModule(Switch):
    """Pooled maps (B, C) -> linear layer -> sigmoid: a switch for each group of the producer's filters.

    In use, and in training where `hard` is set, switches are thresholded at 0.5, and the strongest is always on;
    otherwise the weights in training are the switches themselves.
    """

    def __init__(self, producer: nn.Conv2d, groups: int, start: float) -> None:
        super().__init__()
        size = next(size for size in range(groups, 0, -1) if producer.out_channels % size == 0)
        self.units = producer.out_channels // size
        self.hard = True
        self.linear = nn.Linear(producer.in_channels, self.units)
        nn.init.constant_(self.linear.bias, open_bias(start))

    def description(self) -> SwitchDescription:
        """See `Switch.description`."""
        return SwitchDescription(self.linear)

    def forward(self, pooled: Tensor) -> Decision:
        """The switches of pooled maps (B, C), (B, U)."""
        logits = as_chance(self.linear(pooled))  # (B, U)
        switches = logits.sigmoid()
        # by logits: far below 0 all switches are 0 alike
        chosen = with_strongest((logits > 0).to(switches), logits.detach())
        # the difference is taken first, so that a switch which is on is exactly 1
        used = chosen + (switches - switches.detach()) if switches.requires_grad else chosen
        soft = self.training and not self.hard
        return Decision(used, switches if soft else used, switches)
