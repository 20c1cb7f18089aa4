"""VGG-11: eight plain convolutions (Simonyan and Zisserman 2015, arXiv:1409.1556, configuration A)."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import lcm
from typing import ClassVar, Literal

from torch import nn

from dyncomp.backbones._layers import finer, initialise, scaled, widths_around
from dyncomp.backbones._weights import load_weights
from dyncomp.core.backbone import Backbone, BackboneFamily
from dyncomp.errors import InvalidValue
from dyncomp.registry import register_backbone
from dyncomp.spec import option

STAGES = ((64,), (128,), (256, 256), (512, 512), (512, 512))
"""Filters of the convolutions of each stage; a pooling ends every stage."""


@register_backbone("vgg11", paper="arXiv:1409.1556")
@dataclass(frozen=True)
class VGG11(BackboneFamily):
    """torchvision's VGG-11 convolutions; by default with one linear layer behind global average pooling.

    That head, and filter groups, are those of the conditional VGG-11 (Ioannou et al. 2016, arXiv:1603.01250). Each of
    the eight convolutions is a block with its ReLU and pooling; there is no stem. The five poolings would leave nothing
    of a small image. As many are kept, counted from the last, as leave a map of at least 2x2: all five from 64 pixels
    on, four at 32 to 63, three at 28, two at 8.
    """

    examples: ClassVar[tuple[str, ...]] = ("vgg11(width=0.125, norm='batch')", "vgg11(width=0.125, groups='implicit')")

    width: float = option(1.0, "factor on all filters", gt=0.0)
    multiple: int = option(8, "of which all filters are multiples, at least one, as of the filter groups", ge=1)
    norm: Literal["none", "batch"] = option("none", "behind each convolution")
    head: Literal["pool", "imagenet"] = option(
        "pool", "global average pooling and one linear layer, or torchvision's three linear layers on 7x7"
    )
    groups: Literal["none", "implicit"] = option(
        "none", "implicit routing: 2, 4 and 8 filter groups in the third to fifth stage"
    )
    poolings: int | None = option(
        None, "how many of the five poolings to keep; None: as the image size allows", ge=0, le=5
    )
    weights: str | None = option(None, "file with a state_dict of torchvision's network; with head='imagenet'")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.weights is not None and (self.head, self.groups, self.width) != ("imagenet", "none", 1.0):
            raise InvalidValue(
                "vgg11: weights are those of torchvision's network; give head='imagenet', and neither groups nor width"
            )

    def scaled(self, by: Literal["width", "depth"]) -> Sequence[BackboneFamily]:
        """See `BackboneFamily.scaled`."""
        if by == "depth":
            return ()
        multiple = finer(self.multiple, self.width)
        return [replace(self, width=width, multiple=multiple, weights=None) for width in widths_around(self.width)]

    def build(self, classes: int, in_channels: int, image_size: int) -> Backbone:
        """See `BackboneFamily.build`. Raises InvalidValue for more poolings than the image has halvings."""
        kept = poolings_for(image_size) if self.poolings is None else self.poolings
        if image_size >> kept < 1:
            raise InvalidValue(
                f"vgg11: poolings={kept} leave nothing of {image_size} pixels; "
                f"give at most {image_size.bit_length() - 1}"
            )
        stages = [
            [scaled(filters, self.width, multiple) for filters in stage]
            for stage, multiple in zip(STAGES, self._multiples(), strict=True)
        ]
        blocks = self._blocks(stages, in_channels, kept)
        head = pooled_head if self.head == "pool" else imagenet_head
        model = nn.Sequential(OrderedDict(blocks=blocks) | head(stages[-1][-1], classes))
        initialise(model)
        if self.weights is not None:
            self._load(model, self.weights, classes)
        last = "classifier" if self.head == "pool" else "classifier.6"
        return Backbone(model, [f"blocks.{index}" for index in range(len(blocks))], last, "vgg11")

    def _multiples(self) -> list[int]:
        """Of what the filters of each stage are multiples: the next stage's groups, too, which read them."""
        readers = [min(number + 1, len(STAGES)) for number in range(1, len(STAGES) + 1)]
        return [lcm(self.multiple, self._groups(reader)) for reader in readers]

    def _groups(self, number: int) -> int:
        """Filter groups of the convolutions of a stage, the first of which has number 1."""
        return 2 ** (number - 2) if self.groups == "implicit" and number > 2 else 1

    def _blocks(self, stages: list[list[int]], inputs: int, poolings: int) -> nn.Sequential:
        blocks = nn.Sequential()
        for number, stage in enumerate(stages, start=1):
            groups = self._groups(number)
            for index, outputs in enumerate(stage, start=1):
                pool = index == len(stage) and number > len(stages) - poolings
                blocks.append(block(inputs, outputs, groups, self.norm == "batch", pool))
                inputs = outputs
        return blocks

    def _load(self, model: nn.Sequential, file: str, classes: int) -> None:
        from torchvision.models import get_model  # slow to import: not needed to be listed

        name = "vgg11" if self.norm == "none" else "vgg11_bn"
        peer = get_model(name, weights=None, num_classes=classes, init_weights=False)
        peer.features[0] = model.get_submodule("blocks.0.conv")  # the ends keep our weights where the file's do not fit
        peer.classifier[6] = model.get_submodule("classifier.6")
        load_weights(peer, file, name, ends=("features.0", "classifier.6"))
        ours = model.state_dict()  # the same layers in the same order, without torchvision's numbers
        model.load_state_dict(dict(zip(ours, peer.state_dict().values(), strict=True)))


def block(inputs: int, outputs: int, groups: int, norm: bool, pool: bool) -> nn.Sequential:
    """3x3 convolution with bias, as torchvision has it, [BatchNorm], ReLU, [pooling]: (B, inputs, H, W) -> outputs."""
    conv = nn.Conv2d(inputs, outputs, 3, padding=1, groups=groups)
    nn.init.zeros_(conv.bias)  # type: ignore[arg-type]
    layers: OrderedDict[str, nn.Module] = OrderedDict(conv=conv)
    if norm:
        layers["bn"] = nn.BatchNorm2d(outputs)
    layers["relu"] = nn.ReLU(inplace=True)
    if pool:
        layers["pool"] = nn.MaxPool2d(2)
    return nn.Sequential(layers)


def pooled_head(channels: int, classes: int) -> OrderedDict[str, nn.Module]:
    """Global average pooling and one linear layer: (B, channels, H, W) -> (B, Y)."""
    return OrderedDict(
        pool=nn.AdaptiveAvgPool2d(1),
        flatten=nn.Flatten(1),  # (B, channels)
        classifier=nn.Linear(channels, classes),
    )


def imagenet_head(channels: int, classes: int) -> OrderedDict[str, nn.Module]:
    """The three linear layers, dropout of half the features behind the first two: (B, channels, H, W) -> (B, Y)."""
    linear = [nn.Linear(channels * 7 * 7, 4096), nn.Linear(4096, 4096), nn.Linear(4096, classes)]
    for layer in linear:
        nn.init.normal_(layer.weight, std=0.01)
        nn.init.zeros_(layer.bias)
    hidden = (nn.Sequential(layer, nn.ReLU(inplace=True), nn.Dropout()) for layer in linear[:-1])
    return OrderedDict(
        pool=nn.AdaptiveAvgPool2d(7),
        flatten=nn.Flatten(1),  # (B, channels * 49)
        classifier=nn.Sequential(*(layer for part in hidden for layer in part), linear[-1]),
    )


def poolings_for(image_size: int) -> int:
    """The most poolings, up to five, that leave a side of at least 2 pixels: image_size // 2**poolings >= 2."""
    return min(5, max(0, image_size.bit_length() - 2))
