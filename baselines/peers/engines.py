"""Time the plain network by torch, by ours made ready for use, and by other engines; writes engines.csv.

    python -m baselines.peers.engines [--seconds 4] [--dry]

The engines take turns, round by round, on the same images; a row has the median milliseconds per batch and the median
over rounds of torch's time by the engine's. Torch runs channels-last, its faster layout, normalisations not folded.
ONNX Runtime and OpenVINO run what `dyncomp.export` writes, where the extra `export` is installed; timm's network of the
same name stands beside torchvision's where timm is.
"""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from statistics import median

import torch
from torch import Tensor

import dyncomp
from baselines.peers._rows import write
from benchmarks.ops._common import Options, Way, begin, take_turns
from dyncomp.errors import DyncompError
from dyncomp.export import export_network

NETWORKS = (
    ("cifar_resnet20(width=0.5)", 1, 28),
    ("cifar_resnet38", 3, 32),
    ("mobilenet_v2", 3, 224),
    ("resnet50", 3, 224),
)
BATCHES = (1, 8, 64)
FORMATS = {"onnx": ".onnx", "openvino": ".xml"}


def ways_of(backbone: str, images: Tensor, folder: Path) -> Iterator[tuple[str, Way]]:
    """Engines by name, each a pass over the images."""
    _, channels, side, _ = images.shape
    net = dyncomp.build("static", backbone, classes=10, in_channels=channels, image_size=side)
    fast, last = dyncomp.deployed(net), images.contiguous(memory_format=torch.channels_last)
    plain = copy.deepcopy(net).eval().to(memory_format=torch.channels_last)
    yield "torch", lambda: plain(last, record=False)
    yield "dyncomp, deployed", lambda: fast(last, record=False)
    for form, suffix in FORMATS.items():
        try:
            run = export_network(net, folder / f"{len(images)}{suffix}", form)
        except DyncompError as error:
            print(f"{backbone}, {form}: {error}")
            continue
        yield form, partial(run, images.numpy())
    peer = _of_timm(backbone, images)
    if peer is not None:
        yield "timm's network, torch", lambda: peer(last)


def _of_timm(backbone: str, images: Tensor) -> torch.nn.Module | None:
    """timm's network of that name, channels-last; None where it has none, or is not installed."""
    try:
        import timm
    except ImportError:
        return None
    name = {"mobilenet_v2": "mobilenetv2_100"}.get(backbone, backbone)
    if name not in timm.list_models():
        return None
    network: torch.nn.Module = timm.create_model(name, num_classes=10).eval()
    return network.to(memory_format=torch.channels_last)


def measure(backbone: str, channels: int, side: int, batch: int, seconds: float) -> Iterator[dict[str, object]]:
    """A row for each engine."""
    images = torch.randn(batch, channels, side, side)
    with tempfile.TemporaryDirectory(prefix="dyncomp-") as folder, torch.inference_mode():
        ways = dict(ways_of(backbone, images, Path(folder)))
        times = take_turns(ways, seconds)
    for name, own in times.items():
        ratios = [plain / mine for plain, mine in zip(times["torch"], own, strict=True)]
        row = {"backbone": backbone, "side": side, "batch_size": batch, "engine": name}
        yield row | {"ms_p50": f"{median(own):.4g}", "faster_than_torch": f"{median(ratios):.3g}"}


def main() -> None:
    """Time all networks at all batch sizes."""
    options = Options(__doc__, seconds=4.0).parse_args()
    begin(options)
    rows = [
        row
        for backbone, channels, side in NETWORKS
        for batch in BATCHES
        for row in measure(backbone, channels, side, batch, options.seconds)
    ]
    write(rows, Path(__file__).with_suffix(".csv"), options)


if __name__ == "__main__":
    main()
