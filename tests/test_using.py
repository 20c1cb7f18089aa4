"""`preprocess` and `predict`: images as the test split has them, classes by name; what does not fit is told."""

from __future__ import annotations

import gzip
import io
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits
from torch import Tensor
from torchvision.transforms import v2

import dyncomp
from dyncomp.bench.cell import run_cell
from dyncomp.bench.plan import make_plan
from dyncomp.core import Net, Prediction
from dyncomp.data import ImageSplit, Splits, load
from dyncomp.data.fashion_mnist import DEBIAN
from dyncomp.errors import InvalidValue
from dyncomp.registry import DATASETS, METHODS
from dyncomp.store import Store
from tests.jobs import config

ROOT = Path(__file__).parents[1]


def network(channels: int = 1, size: int = 12, short: int | None = None, method: str = "skipnet") -> Net:
    net = dyncomp.build(method, "cifar_resnet8", classes=3, in_channels=channels, image_size=size)
    assert net.card is not None
    mean, std = (0.4, 0.5, 0.6)[:channels], (0.2, 0.3, 0.4)[:channels]
    net.card = replace(net.card, classes=("a", "b", "c"), mean=mean, std=std, shorter_side=short)
    return net


def pixels(channels: int = 1, size: int = 12, count: int = 0) -> Tensor:
    """uint8 (C, H, W), or (count, C, H, W)."""
    shape = (channels, size, size) if not count else (count, channels, size, size)
    return torch.randint(256, shape, generator=torch.Generator().manual_seed(0), dtype=torch.uint8)


def of_cell(
    dataset: str, tmp_path: Path, data_dir: str | None = None, backbone: str = "cifar_resnet8"
) -> tuple[Net, Splits]:
    """The network that a run on the data set would train, and its splits."""
    more = {} if data_dir is None else {"data_dir": data_dir}
    wanted = config(tmp_path, "static", dataset=dataset, budget="1", **{**more, "backbone": backbone})
    (cell,) = make_plan(wanted).cells
    net = cell.group.build(cell.method)
    dyncomp.save(net, tmp_path / "net.safetensors")
    return dyncomp.load(tmp_path / "net.safetensors"), cell.group.splits


def raw_and_seen(splits: Splits, count: int = 50) -> tuple[Tensor, Tensor]:
    """The first test images as they are, and as a network sees them."""
    assert isinstance(splits.test, ImageSplit)
    return splits.test.images[:count], next(iter(splits.test.batches(count))).images


@pytest.mark.parametrize(
    "dataset", ["shapes(images=20)", "shapes(images=20, channels=3, size=20)", "frames(streams=5)"]
)
def test_raw_test_images_become_the_test_splits_tensors(dataset: str, tmp_path: Path) -> None:
    net, splits = of_cell(dataset, tmp_path)
    raw, wanted = raw_and_seen(splits)
    assert net.classes == splits.class_names
    for image, tensor in zip(raw, wanted, strict=True):
        array = image.permute(1, 2, 0).numpy()
        flat = array[..., 0] if array.shape[2] == 1 else array
        for given in (image, array, flat, Image.fromarray(flat)):
            assert torch.equal(net.preprocess(given), tensor[None])


@pytest.mark.parametrize("size", [8, 16, 29])
def test_raw_digits_become_the_test_splits_tensors(size: int, tmp_path: Path) -> None:
    net, splits = of_cell(f"digits(size={size})", tmp_path)
    eight = load(DATASETS.create("digits"), None, 0)
    assert isinstance(eight.test, ImageSplit)
    raw, wanted = eight.test.images, next(iter(splits.test.batches(10_000))).images
    known = {image.tobytes() for image in (load_digits().images / 16).astype(np.float32)}
    assert {image[0].numpy().tobytes() for image in raw} <= known
    assert net.classes == tuple("0123456789")
    for image, tensor in zip(raw, wanted, strict=True):
        for given in (image, image[0].numpy(), image[0].numpy().astype(np.float64)):
            assert torch.equal(net.preprocess(given), tensor[None])


@pytest.mark.skipif(not DEBIAN.is_dir(), reason="Fashion-MNIST is not installed: apt-get install dataset-fashion-mnist")
def test_raw_fashion_images_become_the_test_splits_tensors(tmp_path: Path) -> None:
    net, splits = of_cell("fashion_mnist(limit=100)", tmp_path)
    packed = gzip.decompress((DEBIAN / "t10k-images-idx3-ubyte.gz").read_bytes())
    raw = np.frombuffer(packed, np.uint8, offset=16).reshape(-1, 28, 28)[:100]  # read-only
    wanted = next(iter(splits.test.batches(100))).images
    assert torch.equal(torch.cat([net.preprocess(image) for image in raw]), wanted)
    assert net.classes[:2] == ("T-shirt/top", "Trouser")


def test_image_files_become_the_test_splits_tensors(tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    sizes = [(60, 50), (50, 60), (36, 36), (32, 32), (33, 400), (20, 31)]
    for part in ("train", "val"):
        for name in ("n01", "n02"):
            (tmp_path / part / name).mkdir(parents=True)
            for number, (height, width) in enumerate(sizes):
                array = draw.integers(0, 256, (height, width, 3), np.uint8)
                Image.fromarray(array).save(tmp_path / part / name / f"{number}.png")
    Image.fromarray(draw.integers(0, 256, (40, 44), np.uint8)).save(tmp_path / "val" / "n01" / "grey.png")
    net, splits = of_cell("imagenet(size=32)", tmp_path, str(tmp_path), "resnet18")
    assert net.classes == ("n01", "n02")
    size = [v2.Resize(32 * 256 // 224, antialias=True), v2.CenterCrop(32), v2.ToImage()]
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    published = v2.Compose([*size, v2.ToDtype(torch.float32, scale=True), v2.Normalize(mean, std)])
    wanted = next(iter(splits.test.batches(50))).images
    for file, tensor in zip(splits.test.files, wanted, strict=True):  # type: ignore[attr-defined]
        with Image.open(file) as image:
            rgb = image.convert("RGB")
        for given in (file, Path(file), rgb, np.array(rgb), torch.from_numpy(np.array(rgb)).permute(2, 0, 1)):
            assert torch.equal(net.preprocess(given), tensor[None])
        torch.testing.assert_close(published(rgb), tensor)  # torchvision normalises in another order
        assert net.predict(file) == net.predict([rgb]) == net.predict(tensor[None])


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("sides", [(24, 24), (30, 18), (7, 9)])
def test_floats_of_another_size_are_resized_as_bytes_are(channels: int, sides: tuple[int, int]) -> None:
    net = network(channels, 12, 14)
    height, width = sides
    smooth = torch.linspace(0, 200, height)[:, None] + torch.linspace(0, 55, width)
    image = smooth.round().to(torch.uint8).expand(channels, height, width)
    by_bytes, by_floats = net.preprocess(image), net.preprocess(image / 255)
    assert by_bytes.shape == by_floats.shape == (1, channels, 12, 12)
    assert float((by_bytes - by_floats).abs().max()) < 2 / 255 / 0.2  # of rounding to whole grey levels


def test_files_and_pictures_are_converted(tmp_path: Path) -> None:
    colour = Image.fromarray(pixels(3).permute(1, 2, 0).numpy())
    grey, coloured = network(1), network(3)
    assert torch.equal(grey.preprocess(colour), grey.preprocess(colour.convert("L")))
    for mode in ("L", "1", "P", "RGBA", "CMYK", "LA"):
        other = colour.convert(mode)
        assert torch.equal(coloured.preprocess(other), coloured.preprocess(other.convert("RGB")))
    colour.convert("P").save(tmp_path / "seen_through.png", transparency=b"\x00\x80")
    assert coloured.preprocess(tmp_path / "seen_through.png").shape == (1, 3, 12, 12)


def test_it_has_the_networks_type() -> None:
    net = network().double()
    assert net.preprocess(pixels()).dtype == torch.float64
    assert len(net.predict(pixels())) == 1
    assert len(net.predict(torch.zeros(2, 1, 12, 12))) == 2


def truncated(tmp_path: Path) -> Path:
    path = tmp_path / "cut.png"
    Image.fromarray(pixels(size=64)[0].numpy()).save(path)
    path.write_bytes(path.read_bytes()[:800])
    return path


def no_image(tmp_path: Path) -> Path:
    path = tmp_path / "text.png"
    path.write_text("hello")
    return path


def opened(tmp_path: Path) -> Image.Image:
    return Image.open(io.BytesIO(truncated(tmp_path).read_bytes()))


BAD: dict[str, tuple[Any, str]] = {
    "three channels": (pixels(3), r"shape \(C, H, W\) = \(3, 12, 12\); the network sees 1 channel: give a PIL image"),
    "array of three": (np.zeros((12, 12, 3), np.uint8), r"shape \(C, H, W\) = \(3, 12, 12\)"),
    "channels first": (np.zeros((1, 12, 12), np.uint8), r"shape \(C, H, W\) = \(12, 1, 12\)"),
    "a flat tensor": (torch.zeros(12, 12), r"shape \(C, H, W\) = \(12, 12\)"),
    "a flat array": (np.zeros(144, np.uint8), r"an array of shape \(144,\); give \(H, W\) or \(H, W, C\)"),
    "nothing": (np.zeros((0, 12), np.uint8), r"shape \(C, H, W\) = \(1, 0, 12\)"),
    "integers": (np.zeros((12, 12), np.int64), "an array of int64; give uint8, or floats from 0 to 1"),
    "truth values": (np.zeros((12, 12), bool), "an array of bool; give uint8, or floats from 0 to 1"),
    "a tensor of integers": (torch.zeros(1, 12, 12, dtype=torch.int32), "an image of torch.int32; give uint8"),
    "bytes as floats": (pixels().float(), "give floats from 0 to 1, uint8, or a batch"),
    "below zero": (torch.full((1, 12, 12), -0.5), "pixels from -0.5 to -0.5; give floats from 0 to 1"),
    "no number": (torch.full((1, 12, 12), torch.nan), "pixels from nan to nan; give floats from 0 to 1"),
    "a list of numbers": (3.5, "an image of type float; give a PIL image"),
    "floats": (Image.fromarray(np.zeros((12, 12), np.float32)), "a PIL image of mode F; give 8 or 16 bits per channel"),
    "32 bits": (Image.fromarray(np.zeros((12, 12), np.int32)), "a PIL image of mode I; give 8 or 16 bits per channel"),
    "a thin line": (np.zeros((2, 10_000_000), np.uint8), "would be resized to 12 x 60000000; give one whose sides"),
    "no file": (lambda tmp_path: tmp_path / "gone.png", "cannot be read as an image .*No such file"),
    "text": (no_image, r"text\.png is no image; give a file that PIL can read"),
    "a truncated file": (truncated, r"cut\.png cannot be read as an image"),
    "opened and truncated": (opened, "the image cannot be decoded"),
}


@pytest.mark.parametrize("case", BAD)
@pytest.mark.parametrize("ask", ["preprocess", "predict"])
def test_what_is_no_image_for_it_is_told_in_one_line(case: str, ask: str, tmp_path: Path) -> None:
    given, message = BAD[case]
    image = given(tmp_path) if callable(given) else given
    with pytest.raises(InvalidValue, match=message) as caught:
        getattr(network(), ask)(image if ask == "preprocess" else [image])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("shape", [(2, 3, 12, 12), (2, 1, 12, 13), (2, 1, 24, 24)])
def test_a_batch_of_another_shape_is_told(shape: tuple[int, ...]) -> None:
    with pytest.raises(InvalidValue, match=r"a batch of shape .*the network sees \(B, C, H, W\) = \(B, 1, 12, 12\)"):
        network().predict(torch.zeros(shape))


def test_a_card_that_contradicts_itself_is_refused() -> None:
    card = network().card
    assert card is not None
    for change, message in (
        ({"mean": (0.1, 0.2)}, "for 1 channels"),
        ({"std": (0.0,)}, "give deviations above 0"),
        ({"shorter_side": 4}, "is below image_size=12"),
    ):
        with pytest.raises(InvalidValue, match=message):
            replace(card, **change)  # type: ignore[arg-type]


@pytest.mark.parametrize("method", ["static", "skipnet", "early_exit", "model_ensemble"])
@pytest.mark.parametrize("ready", [False, True])
def test_predictions_are_the_softmax_of_the_logits(method: str, ready: bool) -> None:
    net = network(method=method)
    net = dyncomp.deployed(net) if ready else net
    batch = pixels(count=6)
    normalised = torch.cat([net.preprocess(image) for image in batch])
    with torch.inference_mode():
        confidence, labels = net(normalised).logits.softmax(1).max(1)
    wanted = [
        (net.classes[label], pytest.approx(value)) for label, value in zip(labels, confidence.tolist(), strict=True)
    ]
    images = [Image.fromarray(image[0].numpy()) for image in batch]
    several: list[Any] = [normalised, batch, list(batch), tuple(images), batch.permute(0, 2, 3, 1).numpy()]
    for given in several:
        assert net.predict(given) == wanted
    for given, expected in zip(images, wanted, strict=True):
        (alone,) = net.predict(given)
        assert isinstance(alone, Prediction)
        assert tuple(alone) == expected
    assert net.predict([]) == []
    assert net.predict(normalised[:0]) == []


def test_the_bytes_of_a_file_may_be_of_any_kind() -> None:
    net, file = network(), io.BytesIO()
    Image.fromarray(pixels()[0].numpy()).save(file, "PNG")
    wanted = net.predict(file.getvalue())
    for kind in (bytearray, memoryview):
        assert net.predict(kind(file.getvalue())) == wanted
        assert net.predict([kind(file.getvalue()), file.getvalue()]) == net.predict([file.getvalue()] * 2)
        with pytest.raises(InvalidValue, match="the file of these bytes is no image"):
            net.predict(kind(b"hello"))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("method", ["static", "skipnet", "model_ensemble"])
def test_answers_that_are_no_numbers_are_told(value: float, method: str) -> None:
    batch = torch.randn(3, 1, 12, 12)
    batch[1] = value
    with pytest.raises(InvalidValue, match="answers to 1 of 3 images are no finite numbers"):
        network(method=method).predict(batch)


def test_names_that_are_too_few_are_told() -> None:
    net = network()
    assert net.card is not None
    net.card = replace(net.card, classes=("a", "b"))
    with pytest.raises(InvalidValue, match=r"tells 3 classes, and its card names 2; set net\.card"):
        net.predict(torch.randn(1, 1, 12, 12))


def test_an_ensembles_confidence_is_its_share() -> None:
    net = network(method="model_ensemble(members=3)")
    batch = torch.cat([net.preprocess(image) for image in pixels(count=4)])
    with torch.inference_mode():
        shares = net(batch).logits.exp()
    torch.testing.assert_close(shares.sum(1), torch.ones(4))
    found = torch.tensor([prediction.confidence for prediction in net.predict(batch)])
    torch.testing.assert_close(found, shares.amax(1))


def test_nothing_is_left_on_the_network_and_it_has_to_evaluate() -> None:
    net = network()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    net.predict(pixels(count=3))
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    with pytest.raises(RuntimeError, match=r"call net\.eval\(\) first"):
        net.train().predict(pixels())


THREADS = """
import sys
from concurrent.futures import ThreadPoolExecutor

import torch

import dyncomp
from tests.test_using import network, pixels

torch.set_num_threads(1)
sys.setswitchinterval(1e-4)
for net in (network(method="static"), dyncomp.deployed(network(method="skipnet"))):
    several = [torch.cat([net.preprocess(image) for image in pixels(count=24)[k : k + 1 + k % 5]]) for k in range(20)]
    alone = [net.predict(images) for images in several]
    with ThreadPoolExecutor(3) as pool:
        for _ in range(10):
            for mine, other in zip(alone, pool.map(net.predict, several), strict=True):
                for one, two in zip(mine, other, strict=True):
                    assert one.class_name == two.class_name, (one, two)
                    assert abs(one.confidence - two.confidence) < 1e-3, (one, two)
"""


def test_threads_do_not_see_each_other() -> None:
    """In a process of its own, which may die of what threads do to each other."""
    command = [sys.executable, "-c", THREADS]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=120)
    assert ran.returncode == 0, ran.stderr[-1000:]


def test_a_run_leaves_all_of_it_in_its_checkpoint(tmp_path: Path) -> None:
    (cell,) = make_plan(config(tmp_path, "static", budget="1")).cells
    store = Store.create(tmp_path / "out", {})
    record = run_cell(cell, store, lambda progress: None)
    assert record["status"] == "ok", record["error"]
    net = dyncomp.load(store.checkpoint_path(cell.key), deploy=True)
    splits = cell.group.splits
    raw, wanted = raw_and_seen(splits, len(splits.test))
    assert torch.equal(torch.cat([net.preprocess(image) for image in raw]), wanted)
    found = [int(prediction.class_name) for prediction in net.predict(list(raw))]  # digits' names are their labels
    right = sum(label == wanted for label, wanted in zip(found, splits.test.labels.tolist(), strict=True))
    assert 100 * right / len(found) == pytest.approx(record["top1"], abs=0.5)
    assert METHODS.create(net.spec) == cell.method
