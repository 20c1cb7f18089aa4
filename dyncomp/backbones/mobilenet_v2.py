"""torchvision's MobileNetV2: inverted residuals (Sandler et al. 2018, arXiv:1801.04381)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar, Literal

from torch import nn

from dyncomp.backbones._layers import finer, pooled, widths_around
from dyncomp.backbones._stem import stem_convolution
from dyncomp.backbones._weights import load_weights
from dyncomp.core.backbone import Backbone, BackboneFamily, ResidualBlock
from dyncomp.registry import register_backbone
from dyncomp.spec import option

if TYPE_CHECKING:
    from torchvision.models.mobilenetv2 import InvertedResidual


@register_backbone("mobilenet_v2", paper="arXiv:1801.04381")
@dataclass(frozen=True)
class MobileNetV2(BackboneFamily):
    """torchvision's MobileNetV2, bit for bit, made for 224 pixels; loads its weights.

    Ten of the 17 blocks have a shortcut; the others change the shape and are plain chains.
    """

    examples: ClassVar[tuple[str, ...]] = ("mobilenet_v2(width=0.25)",)

    width: float = option(1.0, "factor on all channels", gt=0.0)
    multiple: int = option(8, "of which all channels are multiples, at least one", ge=1)
    stem: Literal["imagenet", "cifar"] = option(
        "imagenet", "first layers: torchvision's own, or without halvings, for small images"
    )
    weights: str | None = option(None, "file with a state_dict of torchvision's network")

    def scaled(self, by: Literal["width", "depth"]) -> Sequence[BackboneFamily]:
        """See `BackboneFamily.scaled`."""
        if by == "depth":
            return ()
        multiple = finer(self.multiple, self.width)
        return [replace(self, width=width, multiple=multiple, weights=None) for width in widths_around(self.width)]

    def build(self, classes: int, in_channels: int, image_size: int) -> Backbone:
        """See `BackboneFamily.build`."""
        from torchvision.models import mobilenet_v2  # slow to import: not needed to be listed

        model = mobilenet_v2(weights=None, num_classes=classes, width_mult=self.width, round_nearest=self.multiple)
        stem, *blocks, _ = model.features
        stem[0] = stem_convolution(stem[0], in_channels, self.stem)
        if self.weights is not None:
            load_weights(model, self.weights, "mobilenet_v2", ends=("features.0.0", "classifier.1"))
        names = [f"features.{index}" for index in range(1, len(blocks) + 1)]
        for name, block in zip(names, blocks, strict=True):
            model.set_submodule(name, plain(block))
        return Backbone(pooled(model.features, model.classifier), names, "classifier.1", "mobilenet_v2")


def plain(block: InvertedResidual) -> nn.Module:
    """The block's layers: beside the identity where it has a shortcut, else alone."""
    body: nn.Module = block.conv
    if block.use_res_connect:
        return ResidualBlock(body, nn.Identity(), nn.Identity())
    return body
