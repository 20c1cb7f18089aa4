"""Where methods find residual blocks, and how they say that there are none."""

from __future__ import annotations

import pytest
from torch import nn

from dyncomp.core.backbone import Backbone, ResidualBlock
from dyncomp.errors import CannotAttach
from dyncomp.ops.placement import needs_single_maps, residual_blocks


def backbone(*, multi_scale: bool = False) -> Backbone:
    block = ResidualBlock(nn.Conv2d(3, 3, 1), nn.Identity(), nn.ReLU())
    model = nn.Sequential(nn.Conv2d(3, 3, 1), block, nn.ReLU(), nn.Linear(3, 2))
    return Backbone(model, ["0", "1", "2"], "3", "tiny", multi_scale)


@pytest.mark.parametrize("behind", [0, 1])
def test_residual_blocks_by_name(behind: int) -> None:
    net = backbone()
    assert residual_blocks(net, "any", behind) == {"1": net.part("1")}


def test_no_residual_block_is_refused_in_one_line() -> None:
    with pytest.raises(CannotAttach, match=r"^mine: tiny has no residual block behind its first block, so nothing"):
        residual_blocks(backbone(), "mine", behind=2)


def test_only_several_scales_are_refused() -> None:
    needs_single_maps(backbone(), "mine")
    with pytest.raises(CannotAttach, match=r"^mine: the blocks of tiny pass on several maps at once"):
        needs_single_maps(backbone(multi_scale=True), "mine")
