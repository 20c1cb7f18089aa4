"""Weights that change behind torch's back, and features that hooks keep, of deployed networks."""

from __future__ import annotations

import copy
import io
import pickle
from collections.abc import Callable
from functools import cache

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import dyncomp
from dyncomp.conformance.deployment import stirred
from dyncomp.core import Net
from dyncomp.fast.parameters.copies import copied
from dyncomp.fast.parameters.tracked import TrackedParameter, edits_of, is_handed_out, is_tracked, numbers_of, track
from dyncomp.fast.tuning import by_last_ways
from tests.registered import methods

SHAPE = {"classes": 4, "in_channels": 1, "image_size": 12}
every_method = pytest.mark.parametrize("method", methods())


def by_data(weight: Tensor) -> None:
    weight.data.mul_(1.5)


def by_numpy(weight: Tensor) -> None:
    weight.numpy()[...] *= 1.5


def by_numpy_of_an_alias(weight: Tensor) -> None:
    weight.detach().cpu().numpy()[...] *= 1.5


def by_an_array(weight: Tensor) -> None:
    np.asarray(weight)[...] *= 1.5


def by_dlpack(weight: Tensor) -> None:
    torch.from_dlpack(weight).mul_(1.5)


def by_an_operator(weight: Tensor) -> None:
    with torch.no_grad():
        weight.mul_(1.5)


def by_other_memory(weight: Tensor) -> None:
    weight.data = weight.detach() * 1.5


def by_a_fused_optimizer(weight: Tensor) -> None:
    """Its kernels tell no version."""
    weight.grad = -0.5 * weight.detach()
    torch.optim.SGD([weight], lr=1.0, fused=True).step()
    weight.grad = None


WAYS = [
    by_a_fused_optimizer,
    by_other_memory,
    by_data,
    by_numpy,
    by_numpy_of_an_alias,
    by_an_array,
    by_dlpack,
    by_an_operator,
]


@cache
def built(method: str) -> Net:
    return stirred(dyncomp.build(method, "cifar_resnet8(width=0.5)", **SHAPE).double())


def images(count: int = 5) -> Tensor:
    draw = torch.Generator().manual_seed(3)
    return torch.randn(count, 1, 12, 12, generator=draw, dtype=torch.float64).contiguous(
        memory_format=torch.channels_last
    )


def answers(net: Net, x: Tensor) -> Tensor:
    with torch.inference_mode(), by_last_ways():
        return net(x, record=False).logits.clone()


def fresh(net: Net) -> Net:
    """The same parameters in a network that never had others."""
    other = copy.deepcopy(net)
    other.load_state_dict({name: numbers_of(value).clone() for name, value in net.state_dict().items()})
    return other


@every_method
@pytest.mark.parametrize("change", WAYS)
def test_whatever_writes_weights_is_seen_by_a_deployed_network(method: str, change: Callable[[Tensor], None]) -> None:
    net = dyncomp.deployed(built(method))
    before = [answers(net, x) for x in (images(), images(1))]
    weights = [p for p in net.parameters() if p.dim() > 1]
    change(weights[0])
    change(weights[-1])
    other = fresh(net)
    for x, was in zip((images(), images(1)), before, strict=True):
        now = answers(net, x)
        torch.testing.assert_close(now, answers(other, x), rtol=1e-9, atol=1e-9)
        assert not torch.allclose(now, was)
    change(weights[0])  # by an alias that was handed out long ago, too
    torch.testing.assert_close(answers(net, images()), answers(fresh(net), images()), rtol=1e-9, atol=1e-9)


def test_an_alias_that_was_kept_may_write_at_any_time() -> None:
    net = dyncomp.deployed(built("static"))
    alias = next(net.parameters()).data
    for _ in range(3):
        was = answers(net, images())
        alias.mul_(1.1)
        now = answers(net, images())
        assert not torch.allclose(now, was)
        torch.testing.assert_close(now, answers(fresh(net), images()), rtol=1e-9, atol=1e-9)


def test_averaged_weights_of_a_network_that_is_not_deployed_are_seen() -> None:
    net = copy.deepcopy(built("condconv")).float()
    x = images().float()
    was = answers(net, x)
    for parameter in net.parameters():
        parameter.data.mul_(0.9)
    other = copy.deepcopy(net)
    assert not torch.allclose(answers(net, x), was)
    torch.testing.assert_close(answers(net, x), answers(other, x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", [torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW, torch.optim.Adagrad])
def test_copies_of_experts_are_made_anew_after_a_fused_step(kind: Callable[..., torch.optim.Optimizer]) -> None:
    """A network that is trained keeps copies of its experts, too."""
    net = dyncomp.build("condconv", "cifar_resnet8(width=0.5)", **SHAPE)
    experts = next(parameter for parameter in net.parameters() if is_tracked(parameter))
    optimizer = kind([experts], lr=0.1, fused=True)
    for _ in range(3):
        assert torch.equal(copied(experts, "twice", lambda numbers: 2 * numbers), 2 * experts)
        experts.grad = torch.ones_like(experts)
        optimizer.step()
    assert torch.equal(copied(experts, "twice", lambda numbers: 2 * numbers), 2 * experts)
    assert not is_handed_out(experts)


def test_a_deployed_network_that_is_trained_answers_by_its_new_weights() -> None:
    net = dyncomp.deployed(built("static"))
    was = answers(net, images())
    net.requires_grad_(True).train()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    net(images()).logits.square().sum().backward()
    optimizer.step()
    net.eval()
    assert not torch.allclose(answers(net, images()), was)
    torch.testing.assert_close(answers(net, images()), answers(fresh(net), images()), rtol=1e-9, atol=1e-9)


def test_copies_and_files_are_tracked_and_state_dicts_are_plain() -> None:
    net = dyncomp.deployed(built("condconv"))
    for other in (copy.deepcopy(net), pickle.loads(pickle.dumps(net))):
        assert all(type(p) is TrackedParameter for p in other.parameters())
        assert not any(is_handed_out(p) for p in (*net.parameters(), *other.parameters()))
    file = io.BytesIO()
    torch.save(net.state_dict(), file)
    file.seek(0)
    state = torch.load(file, weights_only=True)
    assert all(type(value) is Tensor for value in state.values())
    assert not any(is_handed_out(p) for p in net.parameters())


def test_not_a_number_is_the_same_as_itself() -> None:
    layer = nn.Linear(2, 2)
    track(layer)
    with torch.no_grad():
        layer.weight[0, 0] = torch.nan
    layer.weight.data.add_(0)
    assert edits_of(layer.weight) == 0
    layer.weight.data[0, 0] = 1
    assert (edits_of(layer.weight), edits_of(layer.weight)) == (1, 1)


def test_a_buffer_that_is_given_other_memory_is_seen() -> None:
    net = dyncomp.deployed(built("condconv"))
    was = answers(net, images(1))
    buffer = next(value for name, value in net.named_buffers() if name.endswith("shift"))
    buffer.data = buffer.detach() + 1
    now = answers(net, images(1))
    assert not torch.allclose(now, was)
    torch.testing.assert_close(now, answers(fresh(net), images(1)), rtol=1e-9, atol=1e-9)
