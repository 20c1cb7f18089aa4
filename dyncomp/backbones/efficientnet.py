"""torchvision's EfficientNet-B0 (Tan and Le 2019, arXiv:1905.11946, table 1)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar, Literal

from torch import nn

from dyncomp.backbones._layers import pooled, widths_around
from dyncomp.backbones._stem import stem_convolution
from dyncomp.backbones._weights import load_weights
from dyncomp.core.backbone import Backbone, BackboneFamily, ResidualBlock
from dyncomp.registry import register_backbone
from dyncomp.spec import option

if TYPE_CHECKING:
    from torchvision.models.efficientnet import MBConv

STAGES = (
    (1, 3, 1, 32, 16, 1),
    (6, 3, 2, 16, 24, 2),
    (6, 5, 2, 24, 40, 2),
    (6, 3, 2, 40, 80, 3),
    (6, 5, 1, 80, 112, 3),
    (6, 5, 2, 112, 192, 4),
    (6, 3, 1, 192, 320, 1),
)
"""Stages 2 to 8 of table 1, scaled by nothing: expansion, kernel, stride, channels in and out, layers."""


@register_backbone("efficientnet_b0", paper="arXiv:1905.11946")
@dataclass(frozen=True)
class EfficientNetB0(BackboneFamily):
    """torchvision's EfficientNet-B0, bit for bit, made for 224 pixels; loads its weights.

    Nine of the 16 blocks have a shortcut; the others change the shape and are plain chains. In
    training, stochastic depth drops whole bodies of single images (up to a fifth of them).
    `width` and `depth` are the paper's coefficients of compound scaling (section 3.3), alone or together.
    """

    examples: ClassVar[tuple[str, ...]] = ("efficientnet_b0",)

    width: float = option(1.0, "factor on all channels, rounded to multiples of 8", gt=0.0)
    depth: float = option(1.0, "factor on the layers of each stage, rounded up", gt=0.0)
    stem: Literal["imagenet", "cifar"] = option(
        "imagenet", "first layers: torchvision's own, or without halvings, for small images"
    )
    weights: str | None = option(None, "file with a state_dict of torchvision's network")

    def scaled(self, by: Literal["width", "depth"]) -> Sequence[BackboneFamily]:
        """See `BackboneFamily.scaled`."""
        if by == "width":
            return [replace(self, width=width, weights=None) for width in widths_around(self.width)]
        return [replace(self, depth=depth, weights=None) for depth in widths_around(self.depth)]

    def build(self, classes: int, in_channels: int, image_size: int) -> Backbone:
        """See `BackboneFamily.build`."""
        from torchvision.models.efficientnet import EfficientNet, MBConvConfig  # slow: not needed to be listed

        stages = [MBConvConfig(*stage, width_mult=self.width, depth_mult=self.depth) for stage in STAGES]
        model = EfficientNet(stages, dropout=0.2, stochastic_depth_prob=0.2, num_classes=classes)
        stem, *trunk, _ = model.features
        stem[0] = stem_convolution(stem[0], in_channels, self.stem)
        if self.weights is not None:
            ends = ("features.0.0", "classifier.1")
            load_weights(model, self.weights, "efficientnet_b0", ends)
        names = []
        for number, stage in enumerate(trunk, start=1):
            for index, block in list(stage.named_children()):
                stage.set_submodule(index, plain(block))
                names.append(f"features.{number}.{index}")
        return Backbone(pooled(model.features, model.classifier), names, "classifier.1", "efficientnet_b0")


def plain(block: MBConv) -> nn.Module:
    """The block's layers: beside the identity where it has a shortcut, else alone."""
    body: nn.Sequential = block.block
    if block.use_res_connect:
        body.append(block.stochastic_depth)
        return ResidualBlock(body, nn.Identity(), nn.Identity())
    return body
