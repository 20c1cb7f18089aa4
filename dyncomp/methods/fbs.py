"""FBS: feature boosting and suppression, the most salient filters of each layer (Gao et al. 2019, arXiv:1810.05331)."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from dyncomp.core import Backbone, Decision, Method, Net, Output, Source, Stage, pretrained
from dyncomp.core.losses import cross_entropy
from dyncomp.ops import Filtered, Switch, SwitchDescription
from dyncomp.ops.balance import binary_information
from dyncomp.ops.channel_subsets import Shift
from dyncomp.ops.filtered_placement import switch_backbone
from dyncomp.registry import register_method
from dyncomp.spec import option


@register_method("fbs", paper="arXiv:1810.05331")
@dataclass(frozen=True)
class Fbs(Method):
    """Computes, image by image, the ceil(density * C) filters of a layer that promise most, and boosts them.

    gamma = ReLU(FC(ss(x))), ss(x) the mean absolute value of each incoming channel, predicts how salient each filter
    will be; winner-take-all keeps the greatest. The layer gives relu(mask * (gamma * norm(conv(x)) + beta)), section 3:
    gamma takes the place of the normalisation's scale, and the mask passes no gradient. FC begins with weights of N(0,
    0.05) and biases of 1, or, on weights that are loaded, the scales that gamma replaces; beta carries over. Every
    image costs the same: an unused filter saves its own multiply-adds and those of the layer that would read it, so a
    layer between two others with switches is left with about density squared of its own.

    It begins with the trained plain backbone. FC alone is trained first, at density 1 (the paper's warm-up); then
    density falls from 1 to `density` over the first half of the training, in which the paper lowers it step by step,
    each time fine-tuning the network. Fine-tuning at 0.3 of the recipe's rate behind half of the budget gave 93.8 % at
    0.59 of the multiply-adds, at the whole rate behind a fifth of it 93.2 %, where the plain backbone has 93.8 %
    (density 0.55, Fashion-MNIST, cifar_resnet20(width=0.5), 10 epochs, calibration split, one seed). Interpretations:
    where a convolution has no normalisation, gamma scales its output and beta is its bias; a filter that is not used is
    zero for its reader, also behind a depthwise convolution in between; `l1` is about the gammas in use alone; filters
    act where one layer alone reads them, inside the bodies of residual blocks and along chains of plain blocks.

    Against collapse: density falls slowly from a network that uses everything, so that every filter has learnt
    something before filters compete; and gamma scales the output, which keeps a gradient on what the image says.
    """

    examples: ClassVar[tuple[str, ...]] = ("fbs(density=0.25, l1=0.01)",)

    density: float = option(0.5, "share of each layer's filters that an image uses", gt=0.0, le=1.0)
    l1: float = option(1e-8, "weight of the sum of the gammas in use, a mean over images", ge=0.0)
    balance: float = option(0.0, "weight of the mutual information of image and choice (not the paper's)", ge=0.0)

    pretraining: float = option(0.5, "share of the budget that trains the plain backbone beforehand", ge=0.0, lt=1.0)
    learning_rate: float = option(0.3, "behind the pretraining, as a factor on the recipe's", gt=0.0)

    def build(self, new: Callable[[], Backbone]) -> nn.Module:
        """See `Method.build`."""
        net = switch_backbone(new(), self._saliency, _normalised, method="fbs")
        for op in list(net.modules()):
            if isinstance(op, Filtered):
                _scale_by_gamma(op)
        return net

    def _saliency(self, producer: nn.Conv2d) -> Switch:
        return Saliency(producer.in_channels, producer.out_channels, self.density)

    def sources(self) -> Mapping[str, Source]:
        """The plain backbone, trained."""
        return pretrained(self.pretraining)

    @property
    def _rate(self) -> float:
        return self.learning_rate if self.pretraining else 1.0

    def stages(self) -> Sequence[Stage]:
        """See `Method.stages`."""
        return (
            Stage(
                "gates",
                0.1,
                self._loss,
                learns=("*.switch.*",),
                learning_rate=self._rate,
                hold_statistics=("*",),
                adjust=self._whole,
            ),
            Stage("train", 0.9, self._loss, learning_rate=self._rate, adjust=self._lower),
        )

    def _whole(self, net: Net, progress: float) -> None:
        self._set(net, 1.0)

    def _lower(self, net: Net, progress: float) -> None:
        self._set(net, 1 - (1 - self.density) * min(1.0, progress / 0.5))

    def _set(self, net: Net, density: float) -> None:
        for module in net.modules():
            if isinstance(module, Saliency):
                module.density = density

    def _loss(self, output: Output, labels: Tensor, progress: float) -> Tensor:
        gammas = torch.cat([decision.weight.float() for decision in output.trace.values()], dim=1)  # (B, all U)
        loss = cross_entropy(output, labels) + self.l1 * gammas.sum(dim=1).mean()
        if not self.balance:
            return loss
        chances = torch.cat([decision.probability.float() for decision in output.trace.values()], dim=1)
        return loss - self.balance * min(1.0, progress / 0.5) * binary_information(chances, chances)


class Saliency(Switch):
    """Predicts gamma (B, C') from the incoming channels' mean absolute values, and keeps the greatest."""

    def __init__(self, inputs: int, outputs: int, density: float) -> None:
        super().__init__()
        self.units = outputs
        self.density = density
        self.linear = nn.Linear(inputs, outputs)
        nn.init.normal_(self.linear.weight, std=0.05)
        nn.init.ones_(self.linear.bias)

    @property
    def kept(self) -> int:
        """How many filters an image uses: ceil(density * C')."""
        return max(1, math.ceil(self.density * self.units - 1e-9))  # 0.7 * 10 may be a little more than 7

    def pool(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> each channel's mean absolute value, (B, C)."""
        return x.abs().mean(dim=(2, 3))

    def description(self) -> SwitchDescription:
        """See `Switch.description`."""
        return SwitchDescription(self.linear, self.kept)

    def forward(self, pooled: Tensor) -> Decision:
        """The filters of the greatest gamma, with gamma as weight, for magnitudes (B, C)."""
        scores = self.linear(pooled)  # (B, C')
        gamma = scores.relu()
        # scores and not gamma: there, zeros would tie; of scores alike the first, so that every form keeps the same
        best, order = scores.detach().sort(dim=1, descending=True, stable=True)
        mask = torch.zeros_like(gamma).scatter(1, order[:, : self.kept], 1.0)  # (B, C')
        return Decision(mask, mask * gamma, _chance(scores, best[:, self.kept - 1 : self.kept]))


def _chance(scores: Tensor, last: Tensor) -> Tensor:
    """How surely each filter is among the winners: its score's distance from the last winner's (B, 1), squashed."""
    if scores.shape[1] == 1:  # there is no spread to measure by
        return torch.ones_like(scores)
    centred = scores.detach() - scores.detach().mean(dim=1, keepdim=True)
    # the standard deviation, spelled out: torch's own warns of a batch without images, and `len` would fix a graph's
    scale = (centred.square().sum(dim=1, keepdim=True) / (scores.shape[1] - 1)).sqrt().clamp_min(1e-6) / 4
    return ((scores - last) / scale).sigmoid()  # (B, C')


def _normalised(between: Sequence[nn.Module]) -> tuple[Sequence[nn.Module], Sequence[nn.Module]]:
    """Gamma acts right behind the normalisation, if the convolution has one."""
    count = int(bool(between) and isinstance(between[0], nn.BatchNorm2d))
    return between[:count], between[count:]


def _scale_by_gamma(op: Filtered) -> None:
    """Take scale and shift from the normalisation: gamma begins as the one, and the other is added behind it."""
    assert isinstance(op.switch, Saliency)
    shift: Tensor | None
    if len(op.before):
        norm = op.before[0]
        assert isinstance(norm, nn.BatchNorm2d)  # _normalised said so
        op.switch.linear.bias, shift = norm.weight, norm.bias
        norm.weight, norm.bias, norm.affine = None, None, False  # type: ignore[assignment]
    else:
        shift, op.producer.bias = op.producer.bias, None
    if shift is not None:
        op.after.insert(0, Shift(shift))
