"""Stages: what of a network they hold."""

from __future__ import annotations

import pytest
from torch import nn

from dyncomp.core import Net, Stage
from dyncomp.core.losses import cross_entropy


@pytest.mark.parametrize(
    ("patterns", "held"),
    [((), set()), (("*",), {"model.0.1", "model.1"}), (("model.0.*",), {"model.0.1"})],
)
def test_held_are_batch_norms_and_nothing_else(patterns: tuple[str, ...], held: set[str]) -> None:
    inner = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Dropout())
    net = Net(nn.Sequential(inner, nn.BatchNorm2d(4))).train()
    Stage("a", 1.0, cross_entropy, hold_statistics=patterns).hold_batch_norms(net)
    assert {name for name, module in net.named_modules() if not module.training} == held
