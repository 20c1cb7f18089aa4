"""What a counter misses is told: operators in other threads, tensors that leave torch."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dyncomp.core.counter import MacCounter
from dyncomp.profile.unseen import unseen

X, W = torch.ones(2, 8), torch.ones(3, 8)


def in_a_thread(work: Callable[[], object]) -> None:
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()


def in_a_pool(work: Callable[[], object]) -> None:
    with ThreadPoolExecutor(2) as pool:
        for future in [pool.submit(work) for _ in range(3)]:
            future.result()


def forked(x: Tensor, w: Tensor) -> Tensor:
    future = torch.jit.fork(torch.mm, x, w)
    return torch.jit.wait(future)


KEPT = ThreadPoolExecutor(1)
"""a pool whose thread is older than the pass"""
KEPT.submit(lambda: None).result()

ELSEWHERE: dict[str, tuple[Callable[[], object], str]] = {
    "a thread": (lambda: in_a_thread(lambda: F.linear(X, W)), "aten.mm (1 calls)"),
    "a pool": (lambda: in_a_pool(lambda: F.linear(X, W)), "aten.mm (3 calls)"),
    "an old pool": (lambda: KEPT.submit(torch.mm, X, W.t()).result(), "aten.mm (1 calls)"),
    "a convolution": (
        lambda: in_a_thread(lambda: F.conv2d(torch.ones(1, 2, 4, 4), torch.ones(3, 2, 3, 3))),
        "aten.convolution (1 calls)",
    ),
    "no formula": (lambda: in_a_thread(lambda: torch.fft.rfft(X)), "aten._fft_r2c (1 calls)"),
}


@pytest.mark.parametrize("name", ELSEWHERE)
def test_work_in_other_threads_is_told(name: str) -> None:
    run, told = ELSEWHERE[name]
    (line,) = unseen(run)
    assert told in line
    assert "in other threads" in line
    with MacCounter() as counter:
        run()
    assert counter.total == 0


@pytest.mark.parametrize(
    "run",
    [
        lambda: X.numpy() @ W.numpy().T,
        lambda: np.asarray(X) * 2,
        lambda: np.from_dlpack(X) * 2,
        lambda: np.asarray(X[0]) + 1,
        lambda: [np.dot(x.numpy(), W[0].numpy()) for x in X],
    ],
)
def test_a_tensor_that_leaves_torch_is_told(run: Callable[[], object]) -> None:
    (line,) = unseen(run)
    assert "handed to numpy or by DLPack" in line


@pytest.mark.parametrize(
    "run",
    [
        lambda: F.linear(X, W),
        lambda: X.sum().item(),
        lambda: in_a_thread(lambda: X.relu().sum()),
        lambda: nn.Conv2d(2, 4, 3)(torch.ones(8, 2, 32, 32)),
        lambda: X.tolist(),
    ],
)
def test_what_is_seen_or_free_is_no_worry(run: Callable[[], object]) -> None:
    assert unseen(run) == []
