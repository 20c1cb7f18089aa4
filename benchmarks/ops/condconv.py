"""CondConv: layers whose kernel is mixed for each image, against one plain convolution, the naive form, and timm's.

    python -m benchmarks.ops.condconv [--train | --nets] [--batches 1,8,64] [--experts 4,8] [--seconds 3] [--least]

Layers: the shapes below. `static` is the plain convolution by torch, channels-last, in inference mode, `ready` the same
as a network that is ready for use runs it; `naive` mixes a kernel and convolves, image by image; `timm` is its
`CondConv2d`, where timm is installed. `--train` times a forward and a backward pass; `--nets` whole networks against
their plain backbones, both ready for use, and those by torch's own convolutions alone.
"""

from __future__ import annotations

import argparse
import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.ops._common import (
    Options,
    Way,
    begin,
    conditions,
    end,
    geometric_mean,
    ratio,
    table,
    take_turns,
    verdict,
)
from dyncomp import build
from dyncomp.fast import disabled
from dyncomp.fast.layers.convolution import with_tuned_layers
from dyncomp.fast.tuning import choices
from dyncomp.ops.experts import ExpertConv2d
from dyncomp.ops.mixture import Mix, Mixture

try:
    from timm.layers import CondConv2d as TimmLayer
except ImportError:  # a peer, not a need
    TimmLayer = None

NETS = ("mobilenet_v1", "efficientnet_b0")
Times = Mapping[str, Sequence[float]]


@dataclass(frozen=True)
class Layer:
    """A convolution: square kernel, as many channels out as in, stride 1, maps of `side` pixels, so many images."""

    kernel: int
    channels: int
    side: int
    groups: int = 1
    batch: int = 1
    experts: int = 8

    def __str__(self) -> str:
        kind = "depthwise " if self.groups > 1 else ""
        return f"{kind}{self.kernel}x{self.kernel} {self.channels} @{self.side}"

    def plain(self) -> nn.Conv2d:
        """The static convolution, channels-last."""
        c, k = self.channels, self.kernel
        conv = nn.Conv2d(c, c, k, padding=k // 2, groups=self.groups, bias=False)
        return conv.to(memory_format=torch.channels_last)

    def images(self) -> Tensor:
        """Features (B, C, H, W), channels-last."""
        x = torch.randn(self.batch, self.channels, self.side, self.side)
        return x.contiguous(memory_format=torch.channels_last)


SHAPES = (Layer(1, 512, 14), Layer(1, 1024, 7), Layer(3, 64, 32), Layer(3, 256, 14))
"""The shapes that goals are set for."""
DEPTHWISE = (Layer(3, 512, 14, 512), Layer(5, 672, 14, 672))
"""Shown beside them."""


def ways_of(layer: Layer) -> dict[str, Callable[[Tensor], Tensor]]:
    """The layer in every way, all of equal weights: features in, features out."""
    plain = layer.plain()
    ours = ExpertConv2d(plain, Mixture(layer.experts, "kernels"))
    weight = torch.rand(layer.batch, layer.experts).requires_grad_()
    ours.mixture.use(Mix(weight))

    def naive(x: Tensor) -> Tensor:
        images = []
        for i in range(len(x)):
            kernel = (weight[i] @ ours.weight.flatten(1)).view(ours.kernel_shape)
            images.append(F.conv2d(x[i : i + 1], kernel, padding=layer.kernel // 2, groups=layer.groups))
        return torch.cat(images)

    ready = nn.Sequential(copy.deepcopy(plain))
    with_tuned_layers(ready)
    ways: dict[str, Callable[[Tensor], Tensor]] = {"static": plain, "ours": ours, "ready": ready, "naive": naive}
    if TimmLayer is not None:
        peer = TimmLayer(
            layer.channels,
            layer.channels,
            layer.kernel,
            padding=layer.kernel // 2,
            groups=layer.groups,
            num_experts=layer.experts,
        )
        with torch.no_grad():
            peer.weight.copy_(ours.weight.view_as(peer.weight))
        ways["timm"] = lambda x: peer(x, weight)
    check(ways, layer)
    return ways


@torch.no_grad()
def check(ways: Mapping[str, Callable[[Tensor], Tensor]], layer: Layer) -> None:
    """Raise AssertionError where two ways that are to compute the same do not."""
    x = layer.images()
    wanted = ways["naive"](x)
    for name in ways.keys() - {"static", "ready", "naive"}:
        torch.testing.assert_close(ways[name](x), wanted, rtol=1e-3, atol=1e-3 * float(wanted.std()), msg=name)


def forward_times(layer: Layer, seconds: float) -> Times:
    """Milliseconds of a forward pass in inference mode."""
    x, ways = layer.images(), ways_of(layer)
    with torch.inference_mode():
        return take_turns({name: lambda way=way: way(x) for name, way in ways.items()}, seconds)


def training_times(layer: Layer, seconds: float) -> Times:
    """Milliseconds of a forward and a backward pass, to features and parameters."""
    x, ways = layer.images().requires_grad_(), ways_of(layer)
    seen = torch.randn_like(x)

    def step(way: Callable[[Tensor], Tensor]) -> Way:
        return lambda: way(x).backward(seen)

    return take_turns({name: step(way) for name, way in ways.items() if name not in ("naive", "ready")}, seconds)


def layers(options: argparse.Namespace) -> list[Layer]:
    """Every shape with every batch and number of experts asked for."""
    shapes = [s for s in (*SHAPES, *DEPTHWISE) if not options.only or options.only in str(s)]
    return [replace(s, batch=b, experts=k) for s in shapes for b in options.batches for k in options.experts]


def layer_table(measured: Mapping[Layer, Times], least: bool) -> str:
    """Milliseconds of the static layer, and what the others take in its place."""
    names = list(next(iter(measured.values())))
    head = ["layer", "batch", "experts", "static, ms", *(f"{name} / static" for name in names[1:])]
    rows = []
    for layer, times in measured.items():
        ratios = [f"{ratio(times, name, 'static', least):.2f}" for name in names[1:]]
        rows.append([str(layer), str(layer.batch), str(layer.experts), f"{min(times['static']):.2f}", *ratios])
    return table(head, rows)


def mean_over_shapes(
    measured: Mapping[Layer, Times], batch: int, experts: int, ratios: tuple[str, str], least: bool
) -> float | None:
    """Geometric mean over the shapes that goals are set for; None where not all of them were measured."""
    wanted = [replace(shape, batch=batch, experts=experts) for shape in SHAPES]
    if not all(layer in measured and {*ratios} <= measured[layer].keys() for layer in wanted):
        return None
    return geometric_mean(ratio(measured[layer], *ratios, least) for layer in wanted)


FORWARD_GOALS = (
    (64, 8, ("ours", "static"), 1.35, True),
    (64, 8, ("timm", "ours"), 2.5, False),
    (1, 8, ("ours", "static"), 1.25, True),
)
TRAINING_GOALS = ((64, 4, ("timm", "ours"), 2.0, False), (64, 8, ("timm", "ours"), 2.0, False))


def goals(measured: Mapping[Layer, Times], wanted: Sequence[tuple], least: bool) -> str:
    """A line per goal."""
    lines = []
    for batch, experts, ratios, bound, at_most in wanted:
        value = mean_over_shapes(measured, batch, experts, ratios, least)
        if value is not None:
            name = f"{ratios[0]} / {ratios[1]}, batch {batch}, {experts} experts, geometric mean"
            lines.append(verdict(name, value, bound, at_most))
    return "\n".join(lines)


def net_times(backbone: str, batch: int, experts: int, seconds: float) -> Times:
    """Milliseconds of a whole network at 224 pixels and of its plain backbone, ready for use, in inference mode."""
    from dyncomp.fast import deployed

    images = torch.rand(batch, 3, 224, 224).contiguous(memory_format=torch.channels_last)
    specs = {"static": "static", "condconv": f"condconv(experts={experts})"}
    ways = {}
    for name, spec in specs.items():
        net = deployed(build(spec, backbone, classes=1000, image_size=224).eval())
        ways[name] = lambda net=net: net(images, sparse=True, record=False)

    def by_torch() -> None:
        with disabled():
            ways["static"]()

    ways["torch"] = by_torch
    with torch.inference_mode():
        return take_turns(ways, seconds)


def net_report(options: argparse.Namespace) -> str:
    """Whole networks: a table and a line per goal."""
    rows, lines = [], []
    for backbone in NETS:
        for batch in options.batches:
            for experts in options.experts:
                times = net_times(backbone, batch, experts, options.seconds)
                slower = ratio(times, "condconv", "static", options.least)
                beside = ratio(times, "condconv", "torch", options.least)
                shortest = [f"{min(times[name]):.1f}" for name in ("torch", "static")]
                rows.append([backbone, str(batch), str(experts), *shortest, f"{slower:.2f}", f"{beside:.2f}"])
                print(" ".join(rows[-1]), flush=True)
                if experts == 8:
                    lines.append(verdict(f"{backbone}, batch {batch}", slower, 1.15, at_most=True))
    head = ["network at 224", "batch", "experts", "torch's static, ms", "static, ms"]
    head += ["condconv / static", "condconv / torch's static"]
    return table(head, rows) + "\n\n" + "\n".join(lines)


def layer_report(options: argparse.Namespace) -> str:
    """Single layers: a table and a line per goal."""
    measured = {}
    for layer in layers(options):
        measure = training_times if options.train else forward_times
        measured[layer] = measure(layer, options.seconds)
        print(layer_table({layer: measured[layer]}, options.least).splitlines()[-1], flush=True)
    wanted = TRAINING_GOALS if options.train else FORWARD_GOALS
    return layer_table(measured, options.least) + "\n\n" + goals(measured, wanted, options.least)


def numbers(text: str) -> list[int]:
    """Numbers with commas between them."""
    return [int(part) for part in text.split(",")]


def options_from(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """What is asked for."""
    parser = Options(__doc__, seconds=3.0)
    parser.add_argument("--train", action="store_true", help="a forward and a backward pass")
    parser.add_argument("--nets", action="store_true", help="whole networks")
    parser.add_argument("--batches", type=numbers, help="images in a batch; default 1,8,64 (training 64, nets 1,32)")
    parser.add_argument("--experts", type=numbers, help="experts; default 4,8 (nets 8)")
    parser.add_argument("--only", default="", help="only layers with this in their name, such as '1x1'")
    parser.add_argument("--least", action="store_true", help="ratios of the shortest times: for a busy machine")
    options = parser.parse_args(arguments)
    options.batches = options.batches or ([64] if options.train else [1, 32] if options.nets else [1, 8, 64])
    options.experts = options.experts or ([8] if options.nets else [4, 8])
    return options


def main() -> None:
    """Measure, print, and write the section of the results."""
    options = options_from()
    begin(options)
    what = "whole networks" if options.nets else "layers, training step" if options.train else "layers, forward"
    report = net_report(options) if options.nets else layer_report(options)
    kind = "shortest times" if options.least else "medians over interleaved rounds"
    text = f"Ratios are {kind}; {conditions(options)}.\n\n{report}"
    print(text, *sorted(f"{way}: {key}" for key, way in choices().items()), sep="\n")
    end(f"CondConv: {what}", text, options)


if __name__ == "__main__":
    main()
