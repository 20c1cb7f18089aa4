"""Beginning from a checkpoint of the plain backbone."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from dyncomp import build, create_method
from dyncomp.core import Net, Voter
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


@pytest.mark.parametrize(
    "method", ["model_ensemble", 'model_ensemble(combine="majority", cascade=True)', "branch_ensemble"]
)
@torch.no_grad()
def test_of_an_ensemble_the_first_member_begins_so_and_the_others_differ(method: str, checkpoint: Path) -> None:
    net, plain = network(method), network("static")
    start_from(plain, checkpoint, create_method("static").stages())
    start_from(net, checkpoint, create_method(method).stages())
    images = torch.randn(4, 1, 8, 8)
    members = [module for module in net.modules() if isinstance(module, Voter)]
    trunk = net.model.trunk if method == "branch_ensemble" else torch.nn.Identity()
    first, second, third = (voter.member(trunk(images)) for voter in members)
    torch.testing.assert_close(first, plain(images).logits)
    assert min(float((a - b).abs().max()) for a, b in ((first, second), (second, third), (third, first))) > 1e-3


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
