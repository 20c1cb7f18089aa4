"""torchvision's residual networks (He et al. 2016, arXiv:1512.03385; stride in the 3x3: v1.5)."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar, Literal

from torch import nn

from dyncomp.backbones._stem import stem_convolution
from dyncomp.backbones._weights import load_weights
from dyncomp.core.backbone import Backbone, BackboneFamily, ResidualBlock
from dyncomp.registry import register_backbone
from dyncomp.spec import option

if TYPE_CHECKING:
    from torchvision.models.resnet import BasicBlock, Bottleneck

STAGES = ("layer1", "layer2", "layer3", "layer4")


@register_backbone("resnet{depth}", paper="arXiv:1512.03385")
@dataclass(frozen=True)
class ResNet(BackboneFamily):
    """torchvision's ResNet-18 to -152, bit for bit, made for 224 pixels; loads its weights."""

    examples: ClassVar[tuple[str, ...]] = ("resnet18", "resnet50")

    depth: Literal[18, 34, 50, 101, 152] = option(50, "layers")
    stem: Literal["imagenet", "cifar"] = option(
        "imagenet", "first layers: torchvision's own, or without halvings, for small images"
    )
    weights: str | None = option(None, "file with a state_dict of torchvision's network")

    def scaled(self, by: Literal["width", "depth"]) -> Sequence[BackboneFamily]:
        """See `BackboneFamily.scaled`."""
        depths: tuple[Literal[18, 34, 50, 101, 152], ...] = (18, 34, 50, 101, 152)
        return [replace(self, depth=depth, weights=None) for depth in depths] if by == "depth" else ()

    def build(self, classes: int, in_channels: int, image_size: int) -> Backbone:
        """See `BackboneFamily.build`."""
        from torchvision.models import get_model  # slow to import: not needed to be listed

        name = f"resnet{self.depth}"
        model = get_model(name, weights=None, num_classes=classes)
        model.conv1 = stem_convolution(model.conv1, in_channels, self.stem)
        if self.stem == "cifar":
            model.maxpool = nn.Identity()
        if self.weights is not None:
            load_weights(model, self.weights, name, ends=("conv1", "fc"))
        for stage in map(model.get_submodule, STAGES):
            for index, block in list(stage.named_children()):
                stage.set_submodule(index, residual(block))
        names = [f"{s}.{index}" for s in STAGES for index, _ in getattr(model, s).named_children()]
        *layers, (classifier, fc) = model.named_children()
        chain = nn.Sequential(OrderedDict([*layers, ("flatten", nn.Flatten(1)), (classifier, fc)]))
        return Backbone(chain, names, classifier, name)


def residual(block: BasicBlock | Bottleneck) -> ResidualBlock:
    """The same layers in the same order, with body and shortcut apart."""
    layers = OrderedDict(conv1=block.conv1, bn1=block.bn1, relu1=block.relu, conv2=block.conv2, bn2=block.bn2)
    if hasattr(block, "conv3"):
        layers |= OrderedDict(relu2=nn.ReLU(inplace=True), conv3=block.conv3, bn3=block.bn3)
    shortcut = nn.Identity() if block.downsample is None else block.downsample
    # not in place: a skipped body may leave the block's own input as the summand
    return ResidualBlock(nn.Sequential(layers), shortcut, nn.ReLU())
