"""Checkpoints: what is written comes back, what is not ours is refused, a half file never appears."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from dyncomp import build
from dyncomp.core import Net
from dyncomp.errors import InvalidValue
from dyncomp.train import checkpoint, load_checkpoint, read_facts, save_checkpoint

FACTS = {"identity": {"method": "skipnet", "seed": 0}, "classes": 3}


def network(method: str = "skipnet", seed: int = 0, **more: Any) -> Net:
    return build(method, "cifar_resnet8", **{"classes": 3, "in_channels": 1, "image_size": 8, "seed": seed, **more})


def same(one: Net, other: Net) -> bool:
    theirs = other.state_dict()
    return all(torch.equal(value, theirs[name]) for name, value in one.state_dict().items())


@pytest.mark.parametrize("method", ["static", "skipnet", "condconv"])
def test_round_trip(method: str, tmp_path: Path) -> None:
    net, other = network(method), network(method, seed=1)
    assert not same(net, other)
    save_checkpoint(net, tmp_path / "deep" / "net.safetensors", FACTS)
    load_checkpoint(other, tmp_path / "deep" / "net.safetensors")
    assert same(net, other)
    assert read_facts(tmp_path / "deep" / "net.safetensors") == FACTS
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["net.safetensors"]


def test_shared_tensors_are_stored_once_and_stay_shared(tmp_path: Path) -> None:
    net, other = network(), network(seed=1)
    save_checkpoint(net, tmp_path / "a", FACTS)
    with safe_open(str(tmp_path / "a"), framework="pt") as file:
        stored = list(file.keys())
    cells = [name for name in net.state_dict() if name.endswith("cell.weight_ih")]
    assert len(cells) > 1
    assert sum(name.endswith("cell.weight_ih") for name in stored) == 1
    load_checkpoint(other, tmp_path / "a")
    assert same(net, other)
    assert len({id(gate.cell) for op in other.sites.values() for gate in [op.gate]}) == 1  # type: ignore[union-attr]


def garbage(path: Path) -> None:
    path.write_bytes(b"not a checkpoint")


def other_format(path: Path) -> None:
    save_file({"weight": torch.zeros(2)}, str(path))


def cut_off(path: Path) -> None:
    save_checkpoint(network(), path, FACTS)
    path.write_bytes(path.read_bytes()[:-1000])


def folder(path: Path) -> None:
    path.mkdir()


def absent(path: Path) -> None:
    assert not path.exists()


@pytest.mark.parametrize("make", [garbage, other_format, cut_off, folder, absent])
def test_what_is_no_checkpoint_is_refused_in_one_line(make: Any, tmp_path: Path) -> None:
    path = tmp_path / "net.safetensors"
    make(path)
    net, untouched = network(), network()
    for read in (read_facts, lambda path: load_checkpoint(net, path)):
        with pytest.raises(InvalidValue, match=re.escape(f"{path} is not a checkpoint of dyncomp")) as caught:
            read(path)
        assert "\n" not in str(caught.value)
    assert same(net, untouched)


@pytest.mark.parametrize("other", [{"method": "condconv"}, {"classes": 4}, {"method": "static"}])
def test_another_networks_weights_are_refused_in_one_line(other: dict[str, Any], tmp_path: Path) -> None:
    save_checkpoint(network(), tmp_path / "a", FACTS)
    with pytest.raises(InvalidValue, match="holds the weights of another network") as caught:
        load_checkpoint(network(**other), tmp_path / "a")
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400


def test_a_write_that_fails_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    net = network()
    save_checkpoint(net, tmp_path / "a", FACTS)

    def fails(model: Net, name: str, metadata: dict[str, str]) -> None:
        Path(name).write_bytes(b"half")
        raise OSError("no space left")

    monkeypatch.setattr(checkpoint, "save_model", fails)
    with pytest.raises(OSError, match="no space left"):
        save_checkpoint(network(seed=1), tmp_path / "a", FACTS)
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
    restored = network(seed=2)
    load_checkpoint(restored, tmp_path / "a")
    assert same(restored, net)
