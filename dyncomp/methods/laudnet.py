"""LAUDNet's layer skipping: a trained net learns which blocks an image needs (Han et al. 2024, arXiv:2308.15949)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from dyncomp.core import Backbone, Batches, Method, Net, Output, Source, Stage, pretrained
from dyncomp.core.initial import PLAIN
from dyncomp.core.losses import cross_entropy, divergence, outside_of_bounds
from dyncomp.core.teaching import TEACHER, teach
from dyncomp.ops import Gated
from dyncomp.ops.balance import binary_information
from dyncomp.ops.gumbel_gate import GumbelGate, chances_said, set_noise
from dyncomp.ops.placement import residual_blocks
from dyncomp.registry import register_method
from dyncomp.spec import option

HOT, COLD = 5.0, 0.1  # Gumbel temperature at the beginning and at the end
BIASES = (0.0, 5.0)  # logits at the start: open for 99 % of the images
KD_TEMPERATURE = 4.0


@register_method("laudnet", paper="arXiv:2308.15949")
@dataclass(frozen=True)
class LAUDNet(Method):
    """Skips residual blocks of a trained network image by image, which its own static form teaches meanwhile.

    LASNet (arXiv:2210.06223) and LAUDNet unify dynamic pixels, channels and layers; this is the layer mode. Each
    block's gate reads its pooled input: one 1x1 convolution to two logits, hard Gumbel-softmax in training with a
    temperature falling exponentially from 5 to 0.1, argmax in use. A trained plain backbone is fine-tuned by
    cross-entropy + `weight` * ((share - target)^2 + bounds) + `distillation` * KD, where KD is the divergence from that
    backbone, frozen, at temperature 4 (Hinton et al. 2015, arXiv:1503.02531), times 16. So its gain over the static net
    is partly the distillation's. The official code fine-tunes at a fifth of the rate of training from nothing.

    Against collapse: it starts from a net that works, with open gates, and the bounds hold each block's rate at the
    target and let go along a squared cosine over the first third of the training.
    """

    examples: ClassVar[tuple[str, ...]] = ("laudnet(target=0.3, hidden=4, distillation=0.0, balance=0.1)",)
    all_on_is_plain: ClassVar[bool] = True

    target: float = option(0.5, "multiply-adds as a share of the plain backbone's", gt=0.0, le=1.0)
    weight: float = option(10.0, "weight of the budget loss and the bounds", ge=0.0)
    distillation: float = option(0.5, "weight of the distillation from the static net", ge=0.0)
    balance: float = option(0.0, "weight of the mutual information of image and decision (not the paper's)", ge=0.0)
    quiet: float = option(0.0, "share of the training, at its end, without noise (the paper: none)", ge=0.0, le=1.0)
    hidden: int = option(0, "channels inside a gate, with batch norm and ReLU; 0: the paper's single layer", ge=0)
    learning_rate: float = option(0.2, "of the fine-tuning, as a factor on the recipe's", gt=0.0)
    pretraining: float = option(0.5, "share of the budget that trains the plain backbone beforehand", gt=0.0, lt=1.0)

    def build(self, new: Callable[[], Backbone]) -> nn.Module:
        """See `Method.build`."""
        backbone = new()
        for name, block in residual_blocks(backbone, "laudnet").items():
            gate = GumbelGate(block.in_channels, self.hidden or None, BIASES, std=None)
            backbone.swap(name, Gated(block, gate, form="residual"))
        return backbone

    def sources(self) -> Mapping[str, Source]:
        """The plain backbone, trained."""
        return pretrained(self.pretraining)

    def inherit(self, net: Net, trained: Mapping[str, Net], batches: Batches) -> None:
        """With the plain backbone's weights, and taught by it."""
        super().inherit(net, trained, batches)
        if self.distillation and PLAIN in trained:
            teach(net, trained[PLAIN])

    def stages(self) -> Sequence[Stage]:
        """See `Method.stages`."""
        return (Stage("finetune", 1.0, self._loss, learning_rate=self.learning_rate, adjust=self._cool),)

    def _cool(self, net: Net, progress: float) -> None:
        set_noise(net, HOT * (COLD / HOT) ** progress, noisy=progress < 1 - self.quiet)

    def loss(self, output: Output, labels: Tensor) -> Tensor:
        """What of the loss is not about gates: cross-entropy and distillation."""
        loss = cross_entropy(output, labels)
        if TEACHER in output.said:
            loss = loss + self.distillation * divergence(output.logits, output.said[TEACHER], KD_TEMPERATURE)
        return loss

    def _loss(self, output: Output, labels: Tensor, progress: float) -> Tensor:
        rates = torch.cat([d.used for d in output.trace.values()], dim=1).mean(dim=0)  # (blocks,)
        budget = (output.share().mean() - self.target).square() + outside_of_bounds(rates, self.target, progress)
        loss = self.loss(output, labels) + self.weight * budget.float()
        if self.balance:
            chances = chances_said(output)
            loss = loss - self.balance * binary_information(chances, chances)
        return loss
