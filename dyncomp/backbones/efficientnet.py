"""torchvision's EfficientNet-B0 (Tan and Le 2019, arXiv:1905.11946, table 1)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from torch import nn

from dyncomp.backbones._layers import pooled
from dyncomp.backbones._stem import stem_convolution
from dyncomp.backbones._weights import load_weights
from dyncomp.core.backbone import Backbone, BackboneFamily, ResidualBlock
from dyncomp.registry import register_backbone
from dyncomp.spec import option

if TYPE_CHECKING:
    from torchvision.models.efficientnet import MBConv


@register_backbone("efficientnet_b0", paper="arXiv:1905.11946")
@dataclass(frozen=True)
class EfficientNetB0(BackboneFamily):
    """torchvision's EfficientNet-B0, bit for bit, made for 224 pixels; loads its weights.

    Nine of the 16 blocks have a shortcut; the others change the shape and are plain chains. In
    training, stochastic depth drops whole bodies of single images (up to a fifth of them).
    """

    examples: ClassVar[tuple[str, ...]] = ("efficientnet_b0",)

    stem: Literal["imagenet", "cifar"] = option(
        "imagenet", "first layers: torchvision's own, or without halvings, for small images"
    )
    weights: str | None = option(None, "file with a state_dict of torchvision's network")

    def build(self, classes: int, in_channels: int, image_size: int) -> Backbone:
        """See `BackboneFamily.build`."""
        from torchvision.models import efficientnet_b0  # slow to import: not needed to be listed

        model = efficientnet_b0(weights=None, num_classes=classes)
        stem, *stages, _ = model.features
        stem[0] = stem_convolution(stem[0], in_channels, self.stem)
        if self.weights is not None:
            ends = ("features.0.0", "classifier.1")
            load_weights(model, self.weights, "efficientnet_b0", ends)
        names = []
        for number, stage in enumerate(stages, start=1):
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
