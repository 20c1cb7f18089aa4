"""torchvision's residual networks (He et al. 2016, arXiv:1512.03385; stride in the 3x3: v1.5)."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import TYPE_CHECKING, ClassVar, Literal

from torch import nn

from dyncomp.backbones._layers import scaled, widths_around
from dyncomp.backbones._stem import stem_convolution
from dyncomp.backbones._weights import load_weights
from dyncomp.core.backbone import Backbone, BackboneFamily, ResidualBlock
from dyncomp.registry import register_backbone
from dyncomp.spec import option

if TYPE_CHECKING:
    from torchvision.models.resnet import BasicBlock, Bottleneck

Blocks = tuple[int, int, int, int]

STAGES = ("layer1", "layer2", "layer3", "layer4")
BLOCKS: Mapping[int, Blocks] = MappingProxyType(
    {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}
)
"""Of each stage, by the network's layers (He et al. 2016, table 1); from 50 on they are bottlenecks."""


@register_backbone("resnet{depth}", paper="arXiv:1512.03385")
@dataclass(frozen=True)
class ResNet(BackboneFamily):
    """torchvision's ResNet-18 to -152, bit for bit, made for 224 pixels; loads its weights.

    With another `width` or other `blocks` it is a network of the same layers under the same names.
    """

    examples: ClassVar[tuple[str, ...]] = ("resnet18", "resnet50")

    depth: Literal[18, 34, 50, 101, 152] = option(50, "layers")
    width: float = option(1.0, "factor on all channels, rounded to multiples of 8", gt=0.0)
    blocks: Blocks | None = option(None, "of the four stages; None: as many as the layers need", ge=1)
    stem: Literal["imagenet", "cifar"] = option(
        "imagenet", "first layers: torchvision's own, or without halvings, for small images"
    )
    weights: str | None = option(None, "file with a state_dict of torchvision's network")

    def scaled(self, by: Literal["width", "depth"]) -> Sequence[BackboneFamily]:
        """See `BackboneFamily.scaled`."""
        if by == "width":
            return [replace(self, width=width, weights=None) for width in widths_around(self.width)]
        return [replace(self, blocks=blocks, weights=None) for blocks in blocks_around(self._blocks)]

    def build(self, classes: int, in_channels: int, image_size: int) -> Backbone:
        """See `BackboneFamily.build`."""
        name = f"resnet{self.depth}"
        model = network(self._blocks, self.depth >= 50, self.width, classes)
        first = model.get_submodule("conv1")
        assert isinstance(first, nn.Conv2d)
        model.conv1 = stem_convolution(first, in_channels, self.stem)
        if self.stem == "cifar":
            model.maxpool = nn.Identity()
        if self.weights is not None:
            load_weights(model, self.weights, name, ends=("conv1", "fc"))
        for stage in map(model.get_submodule, STAGES):
            for index, block in list(stage.named_children()):
                stage.set_submodule(index, residual(block))
        names = [f"{s}.{index}" for s in STAGES for index, _ in model.get_submodule(s).named_children()]
        return Backbone(model, names, "fc", name)

    @property
    def _blocks(self) -> Blocks:
        return self.blocks or BLOCKS[self.depth]


def network(blocks: Blocks, bottlenecks: bool, width: float, classes: int) -> nn.Sequential:
    """torchvision's blocks, layers and names at any width: (B, 3, H, W) -> (B, Y).

    All is made and drawn in torchvision's order, so that a seed gives the weights that it gives there.
    """
    channels = [scaled(64 * 2**number, width) for number in range(len(STAGES))]
    layers: OrderedDict[str, nn.Module] = OrderedDict(
        conv1=nn.Conv2d(3, channels[0], 7, 2, 3, bias=False),
        bn1=nn.BatchNorm2d(channels[0]),
        relu=nn.ReLU(inplace=True),
        maxpool=nn.MaxPool2d(3, 2, 1),  # (B, channels[0], H/4, W/4)
    )
    inputs = channels[0]
    for index, (stage, count) in enumerate(zip(STAGES, blocks, strict=True)):
        layers[stage] = nn.Sequential(*chain(inputs, channels[index], min(2, index + 1), count, bottlenecks))
        inputs = channels[index] * (4 if bottlenecks else 1)  # (B, inputs, H / 2**(index + 2), W / 2**(index + 2))
    layers |= OrderedDict(avgpool=nn.AdaptiveAvgPool2d(1), flatten=nn.Flatten(1), fc=nn.Linear(inputs, classes))
    model = nn.Sequential(layers)
    for layer in model.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
    return model


def chain(inputs: int, planes: int, stride: int, count: int, bottlenecks: bool) -> Iterator[BasicBlock | Bottleneck]:
    """A stage's blocks, the first of which changes the shape: (B, inputs, H, W) -> (B, outputs, H/stride, W/stride)."""
    from torchvision.models.resnet import BasicBlock, Bottleneck  # slow to import: not needed to be listed

    kind = Bottleneck if bottlenecks else BasicBlock
    outputs = planes * kind.expansion
    projection = None
    if stride > 1 or inputs != outputs:
        projection = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))
    yield kind(inputs, planes, stride, projection)
    for _ in range(1, count):
        yield kind(outputs, planes)


def blocks_around(blocks: Blocks) -> Iterator[Blocks]:
    """Blocks of the stages along a ladder of cost, one more on each rung: from one in each stage to twice the given.

    The next one goes where the smallest share of the given is there; those are a rung, too.
    """
    rung = [1] * len(blocks)
    for _ in range(len(blocks), 2 * sum(blocks) + 1):
        yield (rung[0], rung[1], rung[2], rung[3])
        rung[min(range(len(blocks)), key=lambda stage: rung[stage] / blocks[stage])] += 1


def residual(block: BasicBlock | Bottleneck) -> ResidualBlock:
    """The same layers in the same order, with body and shortcut apart."""
    layers = OrderedDict(conv1=block.conv1, bn1=block.bn1, relu1=block.relu, conv2=block.conv2, bn2=block.bn2)
    if hasattr(block, "conv3"):
        layers |= OrderedDict(relu2=nn.ReLU(inplace=True), conv3=block.conv3, bn3=block.bn3)
    shortcut = nn.Identity() if block.downsample is None else block.downsample
    # not in place: a skipped body may leave the block's own input as the summand
    return ResidualBlock(nn.Sequential(layers), shortcut, nn.ReLU())
