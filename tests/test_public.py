"""What `import dyncomp` promises, and the design's example."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn

import dyncomp
from dyncomp.core import Backbone


def test_every_public_name_can_be_had() -> None:
    assert dyncomp.__all__ == sorted(dyncomp.__all__)
    for name in dyncomp.__all__:
        assert getattr(dyncomp, name) is not None
    assert dir(dyncomp) == dyncomp.__all__


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'bild'"):
        dyncomp.bild  # type: ignore[attr-defined]  # noqa: B018


def test_public_names_stay_what_they_are_whatever_was_imported_before() -> None:
    script = """
import dyncomp.bench.runner, dyncomp.conformance, dyncomp.listing, sys, types
import dyncomp
assert "torch" in sys.modules
modules = [n for n in dyncomp.__all__ if isinstance(getattr(dyncomp, n), types.ModuleType)]
assert not modules, modules
"""
    subprocess.run([sys.executable, "-c", script], check=True)


def test_lists_hold_what_is_there() -> None:
    assert {"static", "condconv", "skipnet"} <= set(dyncomp.list_methods())
    assert {"cifar_resnet{depth}", "mobilenet_v1", "mobilenet_v2"} <= set(dyncomp.list_backbones())
    assert {"digits", "fashion_mnist", "cifar10", "shapes"} <= set(dyncomp.list_datasets())


def test_the_designs_example() -> None:
    """design, section 3, on a smaller network."""

    @dyncomp.register_method("skipnet_of_a_user", paper="arXiv:1711.09485")
    @dataclass(frozen=True)
    class SkipNet(dyncomp.Method):
        """A method in a notebook."""

        target: float = 0.5

        def build(self, new: Callable[[], Backbone]) -> nn.Module:
            return new()

        def loss(self, output: dyncomp.Output, labels: Tensor) -> Tensor:
            return super().loss(output, labels)

    assert "skipnet_of_a_user" in dyncomp.list_methods()
    assert dyncomp.create_method("skipnet-of-a-user(target=0.4)") == SkipNet(target=0.4)

    images = torch.rand(5, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    net = dyncomp.build(
        "condconv(experts=4)", backbone="mobilenet_v1(width=0.25)", classes=7, in_channels=3, image_size=32, seed=0
    )
    output = net(images, sparse=True)
    assert output.logits.shape == (5, 7)
    assert all(decision.used.shape == (5, 4) for decision in output.trace.values())
    costs = dyncomp.measure_costs(net, images[:1])
    assert costs == net.costs
    macs = dyncomp.price(costs, output.trace)
    assert macs.shape == (5,)
    assert dyncomp.count_executed_macs(net, images) == int(macs.sum())


def test_build_depends_on_its_seed_alone() -> None:
    torch.manual_seed(1)
    before = torch.get_rng_state()
    nets = [dyncomp.build("skipnet", "cifar_resnet8", classes=3, seed=seed) for seed in (0, 0, 1)]
    assert torch.equal(torch.get_rng_state(), before)
    weights = [torch.cat([p.flatten() for p in net.parameters()]) for net in nets]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])
    assert not any(net.training for net in nets)
