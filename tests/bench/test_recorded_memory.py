"""The memory of trained cells: jobs that rebuild them from their checkpoints, plugins included; energy beside it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from dyncomp import build
from dyncomp.bench import energy
from dyncomp.bench.group import Cell
from dyncomp.bench.memory import inference, memory_figures, sample, training
from dyncomp.bench.plan import make_plan
from dyncomp.bench.rebuild import rebuild
from dyncomp.errors import InvalidValue, UnknownName
from dyncomp.train import save_checkpoint
from tests.handmade import numbered_split, numbers_in
from tests.jobs import config, plugin
from tests.profile.test_energy import add, zone

WIDE = """
width: int = 1

def build(self, new):
    import torch
    from torch import nn

    class Wide(nn.Module):
        "Keeps a map of so many MiB beside the others, for a batch of 64."

        def __init__(self, model, width):
            super().__init__()
            self.model, self.width = model, width

        def forward(self, x):
            large = x.new_ones(len(x), self.width * 2**20 // 4 // 64)
            return self.model(x) + 0 * large.sum()

    return Wide(new().model, self.width)
"""


def cells(tmp_path: Path, methods: str, **more: str | Path) -> list[Cell]:
    return make_plan(config(tmp_path / "out", methods, **more)).cells


def figures(cell: Cell, tmp_path: Path) -> dict[str, float]:
    net = cell.group.build(cell.method)
    path = tmp_path / f"{cell.key}.safetensors"
    shape = {name: getattr(cell.group.splits, name) for name in ("classes", "in_channels", "image_size")}
    save_checkpoint(net, path, {"identity": cell.identity, **shape})
    return memory_figures(net, cell, path)


def test_a_wider_map_is_found_in_every_figure(tmp_path: Path) -> None:
    loose = plugin(tmp_path / "wide.py", "wide", WIDE)
    # both so large that the allocator takes them from the system and gives them back
    _, narrow, wide = cells(tmp_path, "wide(width=[40,104])", include_path=loose)
    before, after = (figures(cell, tmp_path) for cell in (narrow, wide))
    assert before["memory_error"] is after["memory_error"] is None
    assert after["activation_mib"] - before["activation_mib"] == pytest.approx(64, abs=1)
    assert after["memory_mib_inference"] - before["memory_mib_inference"] == pytest.approx(64, abs=6)
    assert after["memory_mib_training"] - before["memory_mib_training"] == pytest.approx(64, abs=12)


def test_what_cannot_be_measured_is_said(tmp_path: Path) -> None:
    fails = WIDE.replace("large = ", "assert not (self.training and len(x) > 60), 'too many'\n            large = ")
    loose = plugin(tmp_path / "fails.py", "wide_fails", fails)
    cell = cells(tmp_path, "wide_fails", include_path=loose)[1]
    found = figures(cell, tmp_path)
    assert found["memory_mib_inference"] > 0
    assert found["memory_mib_training"] is None
    assert found["memory_error"] == "training: AssertionError: too many"


@pytest.mark.parametrize("method", ["skipnet", "distill", "static"])
def test_the_jobs_run(method: str, tmp_path: Path) -> None:
    """In this process, where an error can be seen."""
    cell = cells(tmp_path, method)[-1]
    with pytest.MonkeyPatch.context() as patch:
        jobs = {}

        def here(job: str, arguments: Mapping[str, Any]) -> int:
            name = job.partition(":")[2]
            work = {"inference": inference, "training": training}[name](**arguments)  # type: ignore[operator]
            work.warm_up()
            work.run()
            jobs[name] = work.device
            return 0

        patch.setattr("dyncomp.bench.memory.STEPS", 1)
        patch.setattr("dyncomp.bench.memory.rise_bytes_apart", here)
        figures(cell, tmp_path)
    assert jobs == {"inference": "cpu", "training": "cpu"}


def test_a_small_split_comes_round_again() -> None:
    images, labels = sample(numbered_split(3), 7)
    assert numbers_in(images) == [0, 1, 2, 0, 1, 2, 0]
    assert labels.tolist() == [0, 1, 0, 0, 1, 0, 0]


def test_energy_of_an_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (cell,) = cells(tmp_path, "static")
    net = cell.group.build(cell.method)
    found = energy.energy_of_cell(net, cell)
    if found["energy_j_per_image"] is None:
        assert found["energy_of"].startswith("not measured: ")
    counter = zone(tmp_path / "cap", "package-0", 0, "intel-rapl:0")
    monkeypatch.setattr("dyncomp.profile.energy.POWERCAP", tmp_path / "cap")
    monkeypatch.setattr("dyncomp.profile.energy.SECONDS", 0.0)
    net.register_forward_pre_hook(lambda module, given: add(counter, 10 * len(given[0])))
    found = energy.energy_of_cell(net, cell)
    assert found["energy_j_per_image"] == pytest.approx(10)
    assert found["energy_of"].startswith("RAPL (package-0)")


def test_a_checkpoint_of_something_else_is_told(tmp_path: Path) -> None:
    net = build("static", "cifar_resnet8")
    save_checkpoint(net, tmp_path / "a.safetensors", {"identity": {}})
    with pytest.raises(InvalidValue, match="does not say its classes, in_channels, image_size; give a checkpoint that"):
        rebuild(tmp_path / "a.safetensors", torch.device("cpu"))
    identity = {"method": "nowhere_to_be_found", "backbone": "cifar_resnet8", "seed": 0}
    shape = {"classes": 10, "in_channels": 3, "image_size": 32}
    save_checkpoint(net, tmp_path / "b.safetensors", {"identity": identity, **shape})
    with pytest.raises(UnknownName, match="the checkpoint names it: give its file by --include-path"):
        rebuild(tmp_path / "b.safetensors", torch.device("cpu"))
