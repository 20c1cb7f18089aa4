"""Random networks: methods on small backbones, and chains of blocks built by hand."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random

import torch
from torch import Tensor, nn

from dyncomp import build
from dyncomp.core import Net, ResidualBlock, measure_costs
from dyncomp.errors import CannotAttach
from dyncomp.ops import Gated, Mixed, Router, Switch
from dyncomp.ops.gates import FeedForwardGate
from dyncomp.ops.gumbel_gate import GumbelGate
from dyncomp.ops.shrink import Shrink

TOGETHER = 50
"""Seeds next to one another that draw from one palette, so that code made for one of them serves others."""


@dataclass(frozen=True)
class Palette:
    """What the networks of some seeds have in common, as far as code depends on it."""

    methods: tuple[str, ...]
    backbones: tuple[str, ...]
    sides: tuple[int, ...]
    channels: int
    dtype: torch.dtype
    width: int
    """channels of chains"""


def palette_of(seed: int) -> Palette:
    """That of a seed."""
    draw = Random(f"palette {seed // TOGETHER}")
    return Palette(
        methods=tuple(draw.sample(sorted(METHODS), 4)),
        backbones=(draw.choice(RESNETS), draw.choice(RESNETS), draw.choice(OTHERS)),
        sides=tuple(draw.sample(range(8, 34), 2)),
        channels=draw.randint(1, 4),
        dtype=torch.float32 if draw.random() < 0.2 else torch.float64,
        width=draw.randint(1, 19),
    )


def _resnet(draw: Random) -> str:
    shortcut = draw.choice(["conv", "conv", "pad"])
    return (
        f"cifar_resnet{draw.choice([8, 8, 14])}(width={draw.choice([0.125, 0.25, 0.3125, 0.5])}, shortcut={shortcut!r})"
    )


_shapes = Random("backbones")
RESNETS = [_resnet(_shapes) for _ in range(24)]
OTHERS = [
    "vgg11(width=0.0625)",
    "vgg11(width=0.125)",
    "mobilenet_v1(width=0.125)",
    "mobilenet_v1(width=0.25)",
    "mobilenet_v2(width=0.125)",
]

METHODS: dict[str, Callable[[Random], str]] = {
    "static": lambda draw: "static",
    "skipnet": lambda draw: f"skipnet(gate={draw.choice(['rnn', 'rnn', 'ff1', 'ff2'])!r})",
    "convnet_aig": lambda draw: "convnet_aig",
    "blockdrop": lambda draw: f"blockdrop(width={draw.choice([0.25, 0.5])})",
    "condconv": lambda draw: (
        f"condconv(experts={draw.choice([1, 2, 3])}, routing={draw.choice(['sigmoid', 'softmax'])!r}, "
        f"temperature={draw.choice([1.0, 2.5])}, begin={draw.choice(['1', 'None'])})"
    ),
    "dynamic_conv": lambda draw: f"dynamic_conv(kernels={draw.choice([2, 3])})",
    "lkam": lambda draw: f"lkam(groups={draw.choice([1, 1, 2, 4])})",
    "fbs": lambda draw: f"fbs(density={draw.choice([0.1, 0.3, 0.5, 0.9, 1.0])})",
    "hydranet": lambda draw: (
        f"hydranet(branches={draw.choice([2, 3])}, top={draw.choice([1, 2])}, "
        f"gate={draw.choice(['block', 'linear'])!r})"
    ),
    "early_exit": lambda draw: f"early_exit(head={draw.choice(['conv', 'linear'])!r})",
    "conditional_network": lambda draw: (
        f"conditional_network(depth={draw.choice([1, 2])}, children=2, most={draw.choice([1, 2])})"
    ),
    "dynconv": lambda draw: "dynconv",
    "laudnet": lambda draw: f"laudnet(hidden={draw.choice([0, 4, 16])})",
    "frame_gate": lambda draw: f"frame_gate(width={draw.choice([4, 16])})",
    "model_ensemble": lambda draw: f"model_ensemble(members=2, cascade={draw.choice([True, False])})",
}


@dataclass(frozen=True)
class Made:
    """A network in evaluation mode, what it is in words, and the channels and the side of its images."""

    net: Net
    words: str
    image: tuple[int, int]


def network(seed: int, draw: Random) -> Made:
    """The seed's network; where the first method that is drawn finds no place in its backbone, another one's."""
    palette = palette_of(seed)
    if draw.random() < 0.25:
        return _chain(palette, draw, seed)
    for _ in range(20):
        backbone, side = draw.choice(palette.backbones), draw.choice(palette.sides)
        spec, classes = METHODS[draw.choice(palette.methods)](draw), draw.randint(2, 7)
        try:
            net = build(spec, backbone, classes=classes, in_channels=palette.channels, image_size=side, seed=seed)
        except CannotAttach:  # the method finds no place in this backbone
            continue
        net = _stirred(net.to(palette.dtype), seed)
        return Made(net, f"{spec} on {backbone}, {palette.channels}x{side}x{side}", (palette.channels, side))
    return _chain(palette, draw, seed)


def _stirred(net: Net, seed: int) -> Net:
    """With statistics and gates such that images take different routes, as if it were trained."""
    draw = torch.Generator().manual_seed(seed)

    def normal(tensor: Tensor, spread: float) -> None:
        tensor.copy_(torch.randn(tensor.shape, generator=draw, dtype=torch.float64) * spread)

    with torch.no_grad():
        for module in net.modules():
            if isinstance(module, nn.BatchNorm2d) and module.running_mean is not None:
                normal(module.running_mean, 0.1)
                module.running_var.uniform_(0.5, 1.5, generator=draw)
            if isinstance(module, Switch) and isinstance(getattr(module, "linear", None), nn.Linear):
                normal(module.linear.weight, 3.0)
                module.linear.bias.zero_()
            head = getattr(module, "head", None)
            if isinstance(head, (nn.Conv2d, nn.Linear)) and not isinstance(module, FeedForwardGate):
                normal(head.weight, 3.0)
                if head.bias is not None:
                    normal(head.bias, 0.2)
            if isinstance(module, Router):
                normal(module.linear.weight, 1.0)
    return net.eval()


def _chain(palette: Palette, draw: Random, seed: int) -> Made:
    """Blocks of one width in a row: convolutions, poolings, and ops of one kind."""
    torch.manual_seed(seed)
    width, side = palette.width, draw.choice(palette.sides)
    kind = draw.choice(["gated output", "gated residual", "mixed", "plain"])
    names = [draw.choice(["conv", "block", kind, kind, "pool", "shrink"]) for _ in range(draw.randint(2, 5))]
    layers: list[nn.Module] = [nn.Conv2d(palette.channels, width, 3, padding=1)]
    layers += [nn.ReLU()] if draw.random() < 0.5 else []
    left = side
    for name in names:
        if name in ("pool", "shrink"):
            if left < 4:
                continue
            left = -(-left // 2)
        layers += _layers(name, width, draw)
    net = Net(nn.Sequential(nn.Sequential(*layers), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 3)))
    net = net.to(palette.dtype).eval()
    net.costs = measure_costs(net, torch.zeros(1, palette.channels, side, side, dtype=palette.dtype))
    words = f"a chain of width {width}: {', '.join(names)}, {palette.channels}x{side}x{side}"
    return Made(net, words, (palette.channels, side))


def _layers(name: str, width: int, draw: Random) -> list[nn.Module]:
    if name == "pool":
        return [nn.MaxPool2d(draw.choice([2, 3]), 2, padding=draw.choice([0, 1]))]
    if name == "conv":
        return [_conv(width), nn.ReLU()]
    body: list[nn.Module] = [_conv(width), nn.ReLU(), _conv(width)]
    if name == "shrink":
        body[0] = _conv(width, stride=2)
        return [_block(body, Shrink(2, 0, mean=draw.random() < 0.5))]
    if name.startswith("gated"):
        return [Gated(_block(body), _gate(width, draw), "output" if name == "gated output" else "residual")]
    if name == "mixed":
        router = Router(width, 2, softmax=draw.random() < 0.5, temperature=1.0)
        return [Mixed(_block(body), router, 2, draw.choice(["auto", "kernels"]))]
    return [_block(body)]


def _conv(width: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(width, width, 3, stride, padding=1)


def _block(body: Sequence[nn.Module], shortcut: nn.Module | None = None) -> ResidualBlock:
    return ResidualBlock(nn.Sequential(*body), shortcut or nn.Identity(), nn.ReLU())


def _gate(width: int, draw: Random) -> GumbelGate:
    made = GumbelGate(width, draw.choice([None, 4]), (0.0, 0.0))
    nn.init.normal_(made.head.weight, std=3.0)
    return made
