"""DynConv: residual blocks that run only at some pixels (Verelst & Tuytelaars 2020, arXiv:1912.03203)."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from dyncomp.core import Backbone, Method, Net, Output, ResidualBlock, Source, Stage, pretrained
from dyncomp.core.losses import cross_entropy, outside_of_bounds
from dyncomp.core.tape import Taped
from dyncomp.errors import CannotAttach
from dyncomp.ops import Concrete, Masked, open_bias, steps_of
from dyncomp.ops.balance import binary_information
from dyncomp.ops.gates import as_chance
from dyncomp.registry import register_method
from dyncomp.spec import option


@register_method("dynconv", paper="arXiv:1912.03203")
@dataclass(frozen=True)
class DynConv(Method):
    """Runs the bodies of residual blocks only at the pixels that a small mask network picks, image by image.

    Each block's mask is decided from its input by a 3x3 convolution to one channel plus a linear layer on the pooled
    features, binary-concrete noise in training (off for the last fifth), thresholded in use. The loss adds `weight`
    times the squared distance of the bodies' multiply-adds from `target`, a share of what they would be at all pixels,
    and bounds for each block. As in the official code, pixels of inner convolutions, which follow from the mask by
    dilation, count in the sum and pass no gradient. Masks begin open at nearly all pixels (weights of N(0, 0.01),
    biases for a chance of 0.8), where the code has the layers' usual initialisation, which opens about half of the
    pixels; which is better was not measured. Training begins with random weights, as in the code on CIFAR; on ImageNet
    it begins with trained ones. At an equal budget these were worse (`pretraining=0.5`): 93.0 % against 93.4 %, both at
    0.64 of the multiply-adds (Fashion-MNIST, cifar_resnet20(width=0.5), target 0.6, 10 epochs, calibration split, one
    seed).

    What keeps it from collapse: the bounds (paper, section 3.3) hold every block near the target at first and let go
    along a squared cosine over the first third of the training, so that no block is shut or opened for all images
    before its mask has learned; and the noise lets shut pixels be tried.
    """

    examples: ClassVar[tuple[str, ...]] = ("dynconv(target=0.3)",)
    all_on_is_plain: ClassVar[bool] = True

    target: float = option(0.5, "multiply-adds of the bodies as a share of those of all their pixels", gt=0.0, le=1.0)
    weight: float = option(10.0, "weight of the budget loss and of the bounds", ge=0.0)
    balance: float = option(0.0, "weight of the mutual information of image and decision (not the paper's)", ge=0.0)
    temperature: float = option(1.0, "of the noisy decision in training", gt=0.0)
    pretraining: float = option(0.0, "share of the budget that trains the plain backbone beforehand", ge=0.0, lt=1.0)

    def build(self, new: Callable[[], Backbone]) -> nn.Module:
        """See `Method.build`."""
        backbone = new()
        inputs = backbone.inputs()
        names = [name for name in backbone.blocks if _runs_by_pixel(backbone.part(name))]
        if not names:
            raise CannotAttach(
                f"dynconv: {backbone.name} has no residual block that runs pixel by pixel; choose a backbone with "
                "shortcuts and without squeeze-and-excitation, such as cifar_resnet14 or resnet18"
            )
        for name in names:
            block, (channels, height, width) = backbone.part(name), inputs[name]
            assert isinstance(block, ResidualBlock)
            masker = MaskUnit(channels, _stride(block), self.temperature)
            backbone.swap(name, Masked(block, masker, (height, width)))
        return backbone

    def sources(self) -> Mapping[str, Source]:
        """The plain backbone, trained, where some of the budget is for it."""
        return pretrained(self.pretraining)

    def stages(self) -> Sequence[Stage]:
        """See `Method.stages`."""
        return (Stage("train", 1.0, self._loss, adjust=_quiet_at_the_end),)

    def _loss(self, output: Output, labels: Tensor, progress: float) -> Tensor:
        used, full = zip(*(self._macs(output, site) for site in output.trace), strict=True)
        shares = torch.stack([part / whole for part, whole in zip(used, full, strict=True)])  # (blocks,)
        share = torch.stack(used).sum() / torch.stack(full).sum()
        budget = (share - self.target).square() + outside_of_bounds(shares, self.target, progress)
        loss = cross_entropy(output, labels) + self.weight * budget.float()
        if self.balance:
            chances = torch.cat([output.said[f"{site}.masker"] for site in output.trace], dim=1)  # (B, pixels)
            loss = loss - self.balance * min(1.0, progress * 3) * binary_information(chances, chances)
        return loss

    def _macs(self, output: Output, site: str) -> tuple[Tensor, Tensor]:
        """Multiply-adds of a block's body, mean over the batch, and those of all its pixels.

        The mask's own pixels pass a gradient; those that it needs of inner convolutions, by dilation, do not.
        """
        assert output.costs is not None  # a network in training has them
        costs = output.logits.new_tensor(output.costs.sites[site].units, dtype=torch.float64)  # (U,)
        used = output.trace[site].used.double()  # (B, U)
        inner = used.shape[1] - output.said[f"{site}.masker"].shape[1]
        macs = torch.cat([used[:, :inner].detach(), used[:, inner:]], dim=1) @ costs  # (B,)
        return macs.mean(), costs.sum()


START = 0.8
"""probability with which pixels begin to run"""


class MaskUnit(Taped):
    """(B, C, H, W) -> (B, 1, H', W'): the probability that the block runs at each pixel of its output (section 3.2).

    Noisy in training; then the probabilities without noise (B, H'*W') are said under the unit's name.
    """

    def __init__(self, channels: int, stride: int, temperature: float) -> None:
        super().__init__()
        self.pixels = nn.Conv2d(channels, 1, 3, stride, 1)
        self.whole = nn.Linear(channels, 1)
        self.concrete = Concrete(temperature)
        for layer in (self.pixels, self.whole):
            nn.init.normal_(layer.weight, std=0.01)
            nn.init.constant_(layer.bias, open_bias(START) / 2)  # type: ignore[arg-type]  # both have one

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        logits: Tensor = self.pixels(x) + self.whole(x.mean(dim=(2, 3)))[:, :, None, None].to(x.dtype)
        self.tape.say(self.site, as_chance(logits).sigmoid().flatten(1))
        chances: Tensor = self.concrete(logits)
        return chances


def _quiet_at_the_end(net: Net, progress: float) -> None:
    for module in net.modules():
        if isinstance(module, Concrete):
            module.noisy = progress < 0.8


def _runs_by_pixel(part: nn.Module) -> bool:
    if not isinstance(part, ResidualBlock):
        return False
    try:
        steps_of(part.body)
    except ValueError:
        return False
    return True


def _stride(block: ResidualBlock) -> int:
    """By how much the block makes the map smaller."""
    return math.prod(conv.stride[0] for conv, _ in steps_of(block.body))
