"""Views of tracked parameters are tracked too; parameters may be exchanged."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import dyncomp
from dyncomp.conformance.deployment import stirred
from dyncomp.fast.parameters.tracked import numbers_of, track_parameter
from tests.fast.test_tracked import answers, built, fresh, images

VIEWS: dict[str, Callable[[Tensor], Tensor]] = {
    "index": lambda p: p[0],
    "slices": lambda p: p[0:1, 0:1],
    "unbind": lambda p: p.unbind(1)[0],
    "rows": lambda p: next(iter(p)),
    "view": lambda p: p.detach().permute(0, 2, 3, 1).view(-1),
    "view_as": lambda p: p.view_as(p),
    "split": lambda p: p.split(1)[0],
    "chunk": lambda p: p.chunk(2)[0],
    "narrow": lambda p: p.narrow(0, 0, 1),
    "select": lambda p: p.select(0, 0),
    "unsqueeze": lambda p: p.unsqueeze(0),
    "expand": lambda p: p.expand(1, *p.shape),
    "as_strided": lambda p: p.as_strided((1,), (1,)),
    "mT": lambda p: p.mT,
    "of a view": lambda p: p.detach()[0].permute(1, 2, 0).view(-1)[0:1].unsqueeze(0),
}


def by_data(view: Tensor) -> None:
    view.data.add_(1.0)


def by_numpy(view: Tensor) -> None:
    view.detach().numpy()[...] += 1.0


def by_an_operator(view: Tensor) -> None:
    with torch.no_grad():
        view.add_(1.0)


@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize("write", [by_data, by_numpy, by_an_operator])
def test_what_is_written_by_a_view_is_seen(view: str, write: Callable[[Tensor], None]) -> None:
    net = dyncomp.deployed(built("skipnet"))
    was = answers(net, images())
    write(VIEWS[view](next(p for p in net.parameters() if p.dim() == 4)))
    now = answers(net, images())
    assert not torch.allclose(now, was)
    torch.testing.assert_close(now, answers(fresh(net), images()), rtol=1e-9, atol=1e-9)


def test_what_shares_no_memory_is_plain_and_graphs_go_through_views() -> None:
    parameter = track_parameter(nn.Parameter(torch.ones(4, 3)))
    for made in (parameter[torch.tensor([0, 1])], parameter * 2, parameter.clone(), parameter.to(torch.float64)):
        assert type(made) is Tensor
    assert parameter.contiguous() is parameter
    assert parameter.detach().clone().type() == "torch.FloatTensor"
    torch.autograd.backward(parameter[0].sum())
    assert parameter.grad is not None
    assert parameter.grad.tolist() == [[1.0] * 3, *[[0.0] * 3] * 3]


@pytest.mark.parametrize("method", ["condconv", "skipnet"])
@pytest.mark.parametrize("form", ["as it is", "deployed"])
def test_parameters_may_be_exchanged_by_torch(method: str, form: str) -> None:
    """`torch.utils.swap_tensors` refuses tensors with weak references to them."""
    net = copy.deepcopy(built(method)) if form == "as it is" else dyncomp.deployed(built(method))
    was = answers(net, images())
    parameters = [p for p in net.parameters() if p.dim() > 1]
    for parameter in (parameters[0], parameters[-1]):
        torch.utils.swap_tensors(parameter, nn.Parameter(1.5 * numbers_of(parameter).clone(), requires_grad=False))
    now = answers(net, images())
    assert not torch.allclose(now, was)
    torch.testing.assert_close(now, answers(fresh(net), images()), rtol=1e-9, atol=1e-9)


def test_a_linear_layer_that_reads_filters_is_seen() -> None:
    """Its code has a copy of a view of its weight."""
    net = dyncomp.deployed(stirred(dyncomp.build("fbs", "vgg11(width=0.125)", classes=4, in_channels=1, image_size=32)))
    x = torch.randn(5, 1, 32, 32, generator=torch.Generator().manual_seed(3)).to(memory_format=torch.channels_last)
    readers = [op.consumer for op in net.sites.values() if isinstance(getattr(op, "consumer", None), nn.Linear)]
    assert readers
    for write in (by_data, by_numpy, by_an_operator):
        was = answers(net, x)
        for reader in readers:
            write(reader.weight)
        now = answers(net, x)
        assert not torch.allclose(now, was)
        torch.testing.assert_close(now, answers(fresh(net), x), rtol=1e-4, atol=1e-4)
