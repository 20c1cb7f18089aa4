"""Pretrained weights from files, and files that are none."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor
from torchvision.models import get_model

from dyncomp.core.backbone import Backbone
from dyncomp.errors import InvalidValue
from dyncomp.registry import BACKBONES


def state_of(name: str, **options: object) -> dict[str, Tensor]:
    torch.manual_seed(5)
    return dict(get_model(name, weights=None, **options).state_dict())


def build(spec: str, file: Path, classes: int = 10, channels: int = 3) -> Backbone:
    spec = spec[:-1] + ", " if spec.endswith(")") else f"{spec}("
    family = BACKBONES.create(f"{spec}weights={str(file)!r})")
    net: Backbone = family.build(classes, channels, 32)
    return net


def save_torch(state: dict[str, Tensor], folder: Path) -> Path:
    torch.save(state, folder / "weights.pth")
    return folder / "weights.pth"


def save_tensors(state: dict[str, Tensor], folder: Path) -> Path:
    save_file(state, folder / "weights.safetensors")
    return folder / "weights.safetensors"


@pytest.mark.parametrize("save", [save_torch, save_tensors])
@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v2", "efficientnet_b0"])
@torch.no_grad()
def test_weights_make_the_network_that_was_saved(
    name: str, save: Callable[[dict[str, Tensor], Path], Path], tmp_path: Path
) -> None:
    original = get_model(name, weights=None, num_classes=10).eval()
    net = build(name, save(original.state_dict(), tmp_path)).eval()
    images = torch.randn(2, 3, 32, 32)
    assert torch.equal(net(images), original(images))


def test_files_older_than_the_batch_counters_load(tmp_path: Path) -> None:
    state = state_of("mobilenet_v2", num_classes=10)
    old = {key: value for key, value in state.items() if "num_batches_tracked" not in key}
    net = build("mobilenet_v2", save_torch(old, tmp_path))
    assert torch.equal(net.state_dict()["model.classifier.1.weight"], state["classifier.1.weight"])


@pytest.mark.parametrize(
    ("spec", "classes", "channels", "fresh"),
    [
        ("mobilenet_v2", 7, 3, {"classifier.1.weight", "classifier.1.bias"}),
        ("mobilenet_v2", 10, 1, {"features.0.0.weight"}),
        ("resnet18", 7, 1, {"conv1.weight", "fc.weight", "fc.bias"}),
        ("resnet18(stem='cifar')", 10, 3, {"conv1.weight"}),
    ],
)
def test_other_classes_or_channels_leave_only_the_ends_fresh(
    spec: str, classes: int, channels: int, fresh: set[str], tmp_path: Path
) -> None:
    state = state_of(spec.partition("(")[0], num_classes=10)
    file = save_torch(state, tmp_path)
    with pytest.warns(UserWarning, match="another shape") as caught:
        net = build(spec, file, classes, channels)
    assert [set(re.findall(r"[\w.]+\.(?:weight|bias)", str(w.message))) for w in caught] == [fresh]
    mine = {fingerprint(value) for value in net.state_dict().values()}
    for key, value in state.items():
        assert key in fresh or fingerprint(value) in mine


def fingerprint(x: Tensor) -> tuple[object, ...]:
    flat = x.double().flatten()
    return (tuple(x.shape), float(flat.sum()), float(flat.square().sum()))


def damaged(file: Path) -> None:
    torch.save(state_of("mobilenet_v2"), file)
    file.write_bytes(file.read_bytes()[:1000])


FILES: dict[str, tuple[Callable[[Path], object], str]] = {
    "not there": (lambda file: None, "no file"),
    "a folder": (lambda file: file.mkdir(), "no file"),
    "empty": (lambda file: file.touch(), "no checkpoint"),
    "a text": (lambda file: file.write_text("hello"), "no checkpoint"),
    "damaged": (damaged, "no checkpoint"),
    "a list": (lambda file: torch.save([torch.zeros(1)], file), "no checkpoint"),
    "nested": (lambda file: torch.save({"epoch": 1}, file), "no checkpoint"),
    "code": (lambda file: torch.save({"path": Path("x")}, file), "no checkpoint"),
    "no key": (lambda file: torch.save({}, file), "262 keys missing"),
    "resnet18": (lambda file: torch.save(state_of("resnet18"), file), "keys missing .* unknown"),
    "half as wide": (
        lambda file: torch.save(state_of("mobilenet_v2", width_mult=0.5), file),
        "of another shape",
    ),
}


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize("kind", FILES)
def test_a_file_that_does_not_fit_is_one_clear_line(kind: str, suffix: str, tmp_path: Path) -> None:
    make, expected = FILES[kind]
    file = tmp_path / f"weights{suffix}"
    make(file)
    if suffix == ".safetensors" and file.is_file():
        expected = "no checkpoint"  # torch's format under the other name
    with pytest.raises(InvalidValue, match=expected) as error:
        build("mobilenet_v2", file)
    assert str(file) in str(error.value)
    assert str(error.value).startswith("mobilenet_v2: ")
    assert "\n" not in str(error.value)


def test_a_deeper_network_of_the_family_is_refused(tmp_path: Path) -> None:
    file = save_torch(state_of("resnet34"), tmp_path)
    with pytest.raises(InvalidValue, match=r"unknown \(layer1\.2\.conv1\.weight, \.\.\.\)"):
        build("resnet18", file, 1000)
