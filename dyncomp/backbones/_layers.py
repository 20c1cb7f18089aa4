"""What the families written here share: convolution, stem, head, initial weights, sizes."""

from __future__ import annotations

from collections import OrderedDict

from torch import nn


def convolution(inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1) -> nn.Conv2d:
    """Without bias, as a normalisation follows; the output side is ceil(input side / stride)."""
    return nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)


def activated(inputs: int, outputs: int, kernel: int = 3, stride: int = 1) -> nn.Sequential:
    """Convolution, BatchNorm, ReLU: (B, inputs, H, W) -> (B, outputs, H/stride, W/stride)."""
    return nn.Sequential(
        OrderedDict(
            conv=convolution(inputs, outputs, kernel, stride),
            bn=nn.BatchNorm2d(outputs),
            relu=nn.ReLU(inplace=True),
        )
    )


def stem(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    """What the image meets first, with a 3x3 convolution: (B, inputs, H, W) -> (B, outputs, H/stride, W/stride)."""
    return activated(inputs, outputs, 3, stride)


def classify(stem: nn.Module, trunk: tuple[str, nn.Module], channels: int, classes: int) -> nn.Sequential:
    """Stem, the trunk under its name, global average pooling, one linear layer; He's weights."""
    model = nn.Sequential(
        OrderedDict(
            [
                ("stem", stem),
                trunk,  # (B, channels, H, W)
                ("pool", nn.AdaptiveAvgPool2d(1)),
                ("flatten", nn.Flatten(1)),  # (B, channels)
                ("classifier", nn.Linear(channels, classes)),  # (B, Y)
            ]
        )
    )
    initialise(model)
    return model


def pooled(features: nn.Module, classifier: nn.Module) -> nn.Sequential:
    """Features, global average pooling, classifier: (B, 3, H, W) -> (B, Y), under the names that torchvision uses."""
    layers = OrderedDict(features=features, avgpool=nn.AdaptiveAvgPool2d(1), flatten=nn.Flatten(1))
    return nn.Sequential(layers | OrderedDict(classifier=classifier))


def initialise(model: nn.Module) -> None:
    """Fan-out initialisation (He et al. 2015, arXiv:1502.01852, section 2.2, backward case).

    A convolution's weights are normal with std sqrt(2 / (k * k * outputs / groups)); normalisations
    and the linear layer keep torch's defaults.
    """
    for layer in model.modules():
        if isinstance(layer, nn.Conv2d):
            # torch's kaiming_normal_ forgets the groups: depthwise kernels would start too small
            fan_out = layer.weight[:, 0].numel() / layer.groups
            nn.init.normal_(layer.weight, std=(2 / fan_out) ** 0.5)


def scaled(channels: int, width: float, multiple: int = 8) -> int:
    """The multiple of a number, 8 in the papers, that is nearest to channels * width, at least one."""
    return max(multiple, int(channels * width + multiple / 2) // multiple * multiple)


def finer(multiple: int, width: float) -> int:
    """The multiple for the rungs of a network of that width: as small a part of its channels as at width 1."""
    return max(1, int(multiple * min(1.0, width)))


def halvings_for(image_size: int) -> int:
    """The most halvings, up to five, that leave a side ceil(image_size / 2**halvings) >= 2."""
    return min(5, max(0, (image_size - 1).bit_length() - 1))


def keep_last(strides: list[int], kept: int) -> list[int]:
    """The strides with only the last `kept` of those above 1 left, the others set to 1."""
    strided = [index for index, stride in enumerate(strides) if stride > 1]
    dropped = strided[: len(strided) - kept]
    return [1 if index in dropped else stride for index, stride in enumerate(strides)]


def widths_around(width: float) -> list[float]:
    """Factors on channels along a ladder of cost, from a tenth to twice the given one."""
    return [round(width * twentieth / 20, 6) for twentieth in range(2, 41)]
