"""Features that hooks keep without a copy stay what they were: with a hook on a layer its output is not reused."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable

import pytest
import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook
from torch.utils.hooks import RemovableHandle

import dyncomp
from dyncomp.core import Net
from dyncomp.fast.deploy import folded
from dyncomp.fast.folding import FOLDS
from dyncomp.fast.tuning import by_last_ways
from tests.fast.test_tracked import answers, built, every_method, images

Keep = Callable[[nn.Module, tuple[object, ...], object], None]
Register = Callable[[Net, Keep], Iterable[RemovableHandle]]


def on_all(net: Net, keep: Keep) -> Iterable[RemovableHandle]:
    return [module.register_forward_hook(keep) for module in net.model.modules()]


def on_layers(net: Net, keep: Keep) -> Iterable[RemovableHandle]:
    return [m.register_forward_hook(keep) for m in net.model.modules() if isinstance(m, tuple(FOLDS))]


def on_activations(net: Net, keep: Keep) -> Iterable[RemovableHandle]:
    return [m.register_forward_hook(keep) for m in net.model.modules() if isinstance(m, nn.ReLU)]


def everywhere(net: Net, keep: Keep) -> Iterable[RemovableHandle]:
    return [register_module_forward_hook(keep)]


WHERE = [on_all, on_layers, on_activations, everywhere]


def overwritten(net: Net, x: Tensor, record: bool, register: Register = on_all) -> set[str]:
    """Modules whose outputs, or what they were given, hold other numbers after the pass than a hook saw."""
    kept: list[tuple[nn.Module, Tensor, Tensor]] = []

    def keep(module: nn.Module, given: tuple[object, ...], output: object) -> None:
        kept.extend((module, value, value.clone()) for value in (*given, output) if isinstance(value, Tensor))

    hooks = register(net, keep)
    with torch.inference_mode(), by_last_ways():
        net(x, record=record)
    for hook in hooks:
        hook.remove()
    assert kept
    names = {module: name for name, module in net.model.named_modules()}
    return {names[module] for module, now, then in kept if module in names and not torch.equal(now, then)}


@every_method
def test_features_that_hooks_keep_without_a_copy_stay_what_they_were(method: str) -> None:
    plain, x = copy.deepcopy(built(method)), images()
    for module in plain.modules():
        if isinstance(module, nn.ReLU):
            module.inplace = False  # which writes over what stands before it in any network
    net = dyncomp.deployed(plain)
    before = answers(net, x)
    assert not overwritten(net, x, record=False)
    assert not overwritten(net, x, record=True)
    assert torch.equal(answers(net, x), before)


def test_a_hook_on_a_single_block_is_enough() -> None:
    net = dyncomp.deployed(built("convnet_aig"))
    kept: list[Tensor] = []
    block = next(op for op in net.sites.values())
    block.register_forward_hook(lambda module, given, output: kept.extend((output, output.clone())))
    answers(net, images())
    assert torch.equal(*kept)


@every_method
@pytest.mark.parametrize("where", WHERE)
def test_deployed_networks_overwrite_no_more_than_activations_in_place_do(method: str, where: Register) -> None:
    """Those write over what stands before them in any network: here that may be a folded convolution."""
    plain, x = copy.deepcopy(built(method)), images()
    net = dyncomp.deployed(plain)
    before = answers(net, x)
    for record in (False, True):
        assert overwritten(net, x, record, where) <= overwritten(plain, x, record, where)
    assert torch.equal(answers(net, x), before)


@pytest.mark.parametrize(
    ("layer", "norm", "shape"),
    [
        (nn.Linear(4, 5), nn.BatchNorm1d(5), (3, 4)),
        (nn.Conv1d(4, 5, 3), nn.BatchNorm1d(5), (3, 4, 8)),
        (nn.Conv2d(4, 5, 3), nn.BatchNorm2d(5), (3, 4, 8, 8)),
        (nn.Conv3d(4, 5, 3), nn.BatchNorm3d(5), (3, 4, 5, 5, 5)),
    ],
    ids=["linear", "1d", "2d", "3d"],
)
@torch.no_grad()
def test_every_kind_of_folded_layer_keeps_what_a_hook_was_given(
    layer: nn.Module, norm: nn.Module, shape: tuple[int, ...]
) -> None:
    model = nn.Sequential(layer, norm, nn.ReLU(inplace=True))
    x, kept = torch.randn(shape), list[Tensor]()
    made = folded(model, x)
    assert len(list(made)) == 2
    made[0].register_forward_hook(lambda module, given, output: kept.extend((output, output.clone())))
    made(x)
    assert torch.equal(*kept)
    assert kept[0].min() < 0
