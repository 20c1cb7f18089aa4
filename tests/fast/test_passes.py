"""A pass owns its state: passes in threads, within one another, in hooks and generators do not see each other."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from functools import cache

import pytest
import torch
from torch import Tensor, nn

import dyncomp
from benchmarks.divided import divided
from dyncomp.core import Net
from dyncomp.fast.tuning import by_last_ways
from tests.registered import marks_of

FORMS = ["as it is", "deployed"]
NOTHING_DECIDED = ("static", "distill", "branch_ensemble", "snapshot_ensemble")
ALL = [pytest.param(m, f, marks=marks_of(m)) for m in dyncomp.list_methods() for f in FORMS]
every_network = pytest.mark.parametrize(("method", "form"), ALL)
deciding = pytest.mark.parametrize(("method", "form"), [one for one in ALL if one.values[0] not in NOTHING_DECIDED])


@cache
def network(method: str, form: str) -> Net:
    net = divided(method, "cifar_resnet8(width=0.5)", classes=4, in_channels=1, image_size=12).double().eval()
    return dyncomp.deployed(net) if form == "deployed" else net


def images(count: int, seed: int = 0) -> Tensor:
    draw = torch.Generator().manual_seed(seed)
    x = torch.randn(count, 1, 12, 12, generator=draw, dtype=torch.float64)
    return x.contiguous(memory_format=torch.channels_last)


def logits(net: Net, x: Tensor, record: bool) -> Tensor:
    with torch.inference_mode(), by_last_ways():
        return net(x, record=record).logits.clone()


def same(one: Tensor, other: Tensor) -> None:
    torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)


@every_network
def test_threads_do_not_see_each_other(method: str, form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    net, x = network(method, form), images(24)
    wanted = {record: torch.cat([logits(net, image[None], record) for image in x]) for record in (False, True)}
    failed: list[str] = []

    def ask(who: int) -> None:
        torch.set_num_threads(1)
        for turn in range(6):
            count, record = (1, 3, 8, 5)[(who + turn) % 4], bool((who + turn) % 3)
            first = (who * 7 + turn * 5) % (24 - count)
            some = slice(first, first + count)
            try:
                same(logits(net, x[some], record), wanted[record][some])
            except Exception as error:
                failed.append(repr(error))

    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)  # threads change places in the middle of passes
    try:
        threads = [threading.Thread(target=ask, args=(who,)) for who in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(before)
    assert not failed, failed[:2]


@deciding
def test_a_pass_within_a_pass_changes_nothing(method: str, form: str) -> None:
    """Every op, before and after it runs, lets the same network answer other images, in another form."""
    net, x = network(method, form), images(5)
    wanted, other = logits(net, x, True), logits(net, images(3, seed=1), False)
    inside = False

    def ask(*_: object) -> None:
        nonlocal inside
        if not inside:
            inside = True
            same(logits(net, images(3, seed=1), False), other)
            net(images(2, seed=2), sparse=False)
            inside = False

    hooks = [op.register_forward_pre_hook(ask) for op in net.sites.values()]
    hooks += [op.register_forward_hook(ask) for op in net.sites.values()]
    try:
        same(logits(net, x, True), wanted)
        same(logits(net, x, False), wanted)
    finally:
        for hook in hooks:
            hook.remove()


@deciding
@torch.no_grad()
def test_again_within_a_pass_is_a_pass_of_its_own(method: str, form: str) -> None:
    net, x = network(method, form), images(4)
    earlier = net(images(3, seed=1))
    wanted, before = net(x).logits, earlier.logits
    site = next(iter(net.sites.values()), net.model)
    found: list[Tensor] = []

    def ask(*_: object) -> None:
        if not found:
            found.append(torch.empty(0))
            found.append(earlier.again(dict(earlier.trace)).logits)

    hook = site.register_forward_hook(ask)
    try:
        same(net(x).logits, wanted)
    finally:
        hook.remove()
    same(found[1], before)


@deciding
def test_generators_that_are_not_finished_are_passes_of_their_own(method: str, form: str) -> None:
    net, x = network(method, form), images(4)
    wanted = logits(net, x, True)

    def layer_by_layer() -> Iterator[Tensor]:
        for image in x:
            yield logits(net, image[None], True)

    one, other = layer_by_layer(), layer_by_layer()
    first = next(one)
    same(torch.cat([*other]), wanted)
    same(torch.cat([first, *one]), wanted)
    next(layer_by_layer())  # never finished
    same(logits(net, x, True), wanted)


@deciding
def test_a_pass_that_fails_leaves_nothing_behind(method: str, form: str) -> None:
    net, x = network(method, form), images(4)
    wanted = logits(net, x, True)

    def fail(*_: object) -> None:
        raise KeyError("in the middle")

    for op in net.sites.values():
        hook = op.register_forward_hook(fail)
        try:
            logits(net, images(3), True)
        except KeyError:
            pass
        finally:
            hook.remove()
        assert (net.tape.images, net.tape.decisions, net.tape.silent) == (0, {}, False)
        same(logits(net, x, True), wanted)


def test_a_gate_by_itself_remembers_nothing_between_networks() -> None:
    net = network("skipnet", "as it is")
    other = divided("skipnet", "cifar_resnet8(width=0.5)", classes=4, in_channels=1, image_size=12).double().eval()
    seen: list[int] = []

    class Asks(nn.Module):
        def forward(self, module: nn.Module, *_: object) -> None:
            seen.append(other.tape.images)

    hook = next(iter(net.sites.values())).register_forward_hook(Asks())
    logits(net, images(3), True)
    hook.remove()
    assert seen == [0]  # a pass of one network is none of another's
