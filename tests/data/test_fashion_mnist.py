"""Fashion-MNIST from files of its format: torchvision's folder, Debian's, a download."""

from __future__ import annotations

import gzip
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torchvision
from torch import Tensor

from dyncomp.data import load
from dyncomp.data.fashion_mnist import FILES, FashionMnist
from dyncomp.data.idx import read_idx
from dyncomp.errors import DataNotFound, InvalidValue

TRAIN, TEST = 300, 50


def write_idx(path: Path, content: Tensor, packed: bool) -> None:
    sizes = b"".join(size.to_bytes(4, "big") for size in content.shape)
    data = bytes((0, 0, 8, content.dim())) + sizes + content.numpy().tobytes()
    if packed:
        path.with_name(f"{path.name}.gz").write_bytes(gzip.compress(data))
    else:
        path.write_bytes(data)


def write_files(folder: Path, packed: bool) -> None:
    folder.mkdir(parents=True)
    draw = torch.Generator().manual_seed(0)
    for part, count in (("train", TRAIN), ("t10k", TEST)):
        images = torch.randint(0, 256, (count, 28, 28), dtype=torch.uint8, generator=draw)
        write_idx(folder / f"{part}-images-idx3-ubyte", images, packed)
        write_idx(folder / f"{part}-labels-idx1-ubyte", (torch.arange(count) % 10).to(torch.uint8), packed)


@pytest.fixture
def alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine without Fashion-MNIST and without a network; gives its cache folder."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("DYNCOMP_DATA", raising=False)
    monkeypatch.setattr("dyncomp.data.fashion_mnist.DEBIAN", tmp_path / "debian")
    monkeypatch.setattr("torchvision.datasets.FashionMNIST.download", unreachable)
    return tmp_path / "cache" / "dyncomp"


def unreachable(self: object) -> None:
    raise RuntimeError("Error downloading:\nno route to host")


@pytest.mark.parametrize(
    ("place", "packed"),
    [("data", True), ("data", False), ("data/fashion-mnist", True), ("data/FashionMNIST/raw", False), ("debian", True)],
)
def test_files_are_found_wherever_they_usually_lie(alone: Path, tmp_path: Path, place: str, packed: bool) -> None:
    (tmp_path / "data").mkdir()
    shutil.rmtree(tmp_path / place, ignore_errors=True)
    write_files(tmp_path / place, packed)
    splits = load(FashionMnist(), tmp_path / "data")
    assert (len(splits.train), len(splits.calibration), len(splits.test)) == (TRAIN // 2, TRAIN // 2, TEST)
    assert splits.class_names[-1] == "Ankle boot"


def test_the_named_folder_comes_before_the_cache(alone: Path, tmp_path: Path) -> None:
    write_files(alone, packed=False)
    write_files(tmp_path / "data", packed=False)
    for name in FILES:
        (alone / name).write_bytes(b"")  # would be refused, were it read
    assert len(load(FashionMnist(), tmp_path / "data").test) == TEST


def test_torchvision_reads_the_same_test_images(alone: Path, tmp_path: Path) -> None:
    write_files(tmp_path / "data" / "FashionMNIST" / "raw", packed=False)
    peer = torchvision.datasets.FashionMNIST(tmp_path / "data", train=False)
    splits = load(FashionMnist(), tmp_path / "data")
    batch = next(iter(splits.test.batches(TEST)))
    pixels = batch.images[:, 0] * splits.std[0] + splits.mean[0]
    assert torch.equal((pixels * 255).round().to(torch.uint8), peer.data)
    assert torch.equal(batch.labels, peer.targets)


def test_a_download_lands_in_the_cache_whole(alone: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "torchvision.datasets.FashionMNIST.download", lambda source: write_files(Path(source.raw_folder), False)
    )
    assert len(load(FashionMnist()).test) == TEST
    assert [path.name for path in alone.iterdir()] == ["FashionMNIST"]
    monkeypatch.setattr("torchvision.datasets.FashionMNIST.download", unreachable)
    assert len(load(FashionMnist()).test) == TEST  # from the cache


def test_a_failed_download_says_where_it_looked_and_what_to_do(alone: Path, tmp_path: Path) -> None:
    with pytest.raises(DataNotFound) as caught:
        load(FashionMnist(), tmp_path)
    message = str(caught.value)
    assert "\n" not in message
    for word in (str(tmp_path), str(alone), "debian", "no route to host", "apt-get install", "--data-dir"):
        assert word in message
    assert list(alone.iterdir()) == []


def truncated(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-5])


def of_other_kind(path: Path) -> None:
    path.write_bytes(gzip.compress(b"\0\0\x0d\x03" + b"\0" * 100))


def no_gzip(path: Path) -> None:
    path.write_bytes(b"<html>404</html>")


def flipped_bits(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(content)


def nothing(path: Path) -> None:
    path.write_bytes(gzip.compress(b""))


def too_short(path: Path) -> None:
    path.write_bytes(gzip.compress(gzip.decompress(path.read_bytes())[:-1]))


@pytest.mark.parametrize("damage", [truncated, of_other_kind, no_gzip, flipped_bits, nothing, too_short])
def test_a_damaged_file_is_named(alone: Path, tmp_path: Path, damage: Callable[[Path], None]) -> None:
    write_files(tmp_path / "data", packed=True)
    file = tmp_path / "data" / f"{FILES[0]}.gz"
    damage(file)
    with pytest.raises(DataNotFound, match="is damaged") as caught:
        load(FashionMnist(), tmp_path / "data")
    assert str(file) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("labels", [torch.zeros(TRAIN - 1), torch.full((TRAIN,), 10)])
def test_labels_that_do_not_belong_to_the_images_are_refused(alone: Path, tmp_path: Path, labels: Tensor) -> None:
    write_files(tmp_path / "data", packed=False)
    write_idx(tmp_path / "data" / FILES[1], labels.to(torch.uint8), packed=False)
    with pytest.raises(DataNotFound, match="do not belong together"):
        load(FashionMnist(), tmp_path / "data")


def test_limit_keeps_that_many_train_images(alone: Path, tmp_path: Path) -> None:
    write_files(tmp_path / "data", packed=False)
    splits = load(FashionMnist(limit=40), tmp_path / "data")
    assert splits.train.labels.bincount().tolist() == [4] * 10
    assert len(splits.test) == TEST
    with pytest.raises(InvalidValue, match="limit=1000 is above its 150 train images"):
        load(FashionMnist(limit=1000), tmp_path / "data")


def test_idx_gives_back_what_was_written(tmp_path: Path) -> None:
    content = torch.arange(24, dtype=torch.uint8).view(2, 3, 4)
    write_idx(tmp_path / "some", content, packed=True)
    assert torch.equal(read_idx(tmp_path / "some", dimensions=3), content)
