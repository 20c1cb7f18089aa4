"""Beginning from a checkpoint of the plain backbone."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from dyncomp import build, create_method
from dyncomp.core import Net
from dyncomp.core.decisions import all_on
from dyncomp.errors import InvalidValue
from dyncomp.train import save_checkpoint, start_from


def network(method: str, backbone: str = "cifar_resnet8", seed: int = 0) -> Net:
    return build(method, backbone, classes=3, in_channels=1, image_size=8, seed=seed)


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    plain = network("static", seed=5)
    for buffer in plain.buffers():
        if buffer.is_floating_point():
            buffer.uniform_(0.5, 1.5)
    save_checkpoint(plain, tmp_path / "plain.safetensors", {})
    return tmp_path / "plain.safetensors"


@pytest.mark.parametrize("method", ["static", "skipnet", "blockdrop", "dynconv"])
@torch.no_grad()
def test_with_everything_on_it_answers_as_the_checkpoint(method: str, checkpoint: Path) -> None:
    net, plain = network(method), network("static")
    start_from(plain, checkpoint, create_method("static").stages())
    start_from(net, checkpoint, create_method(method).stages())
    images = torch.randn(4, 1, 8, 8)
    torch.testing.assert_close(net(images, decisions=all_on(net, 4)).logits, plain(images).logits)


def test_stages_that_only_pretrain_are_left_out(checkpoint: Path) -> None:
    stages = create_method("static").stages()
    (stage,) = stages
    given = [replace(stage, name="a", share=0.5, pretrains=True), *(replace(stage, share=0.25) for _ in range(2))]
    left = start_from(network("static"), checkpoint, given)
    assert [(kept.name, kept.share) for kept in left] == [("train", 0.5), ("train", 0.5)]


def test_another_backbones_checkpoint_is_refused_in_one_line(checkpoint: Path) -> None:
    with pytest.raises(InvalidValue, match=r"holds no .* of shape .*static on the same backbone") as caught:
        start_from(network("static", "cifar_resnet14"), checkpoint, ())
    assert "\n" not in str(caught.value)
