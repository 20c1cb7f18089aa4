"""Generated code stays inside its tensors, whatever the caller does: every buffer lies before a page that faults."""

from __future__ import annotations

import copy
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
from functools import cache
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from benchmarks.faults.cases import case
from dyncomp import build
from dyncomp.core import Net
from dyncomp.fast import codegen, deployed, disabled
from dyncomp.fast.memory import allocated_by, empty
from dyncomp.fast.tuning import by_last_ways
from dyncomp.ops import Switch
from tests.guarded import NOT_AN_INDEX, before_a_fault, behind_a_fault, guard_parameters, guarded

pytestmark = [
    pytest.mark.skipif(codegen.this_machine() is None, reason="no machine code for this machine"),
    pytest.mark.usefixtures("memory_before_faults"),
]

ROOT = Path(__file__).resolve().parent.parent.parent


def images(count: int, seed: int = 0) -> Tensor:
    draw = torch.Generator().manual_seed(seed)
    x = torch.randn(count, 3, 17, 17, generator=draw, dtype=torch.float64)
    return guarded(x.contiguous(memory_format=torch.channels_last))


def made(spec: str) -> Net:
    """Ready for use; its gates decide about half of the images one way."""
    net = copy.deepcopy(_made(spec))
    guard_parameters(net)
    return net


@cache
def _made(spec: str) -> Net:
    net = build(spec, "cifar_resnet8(width=0.5)", classes=5, in_channels=3, image_size=17, seed=0).double()
    draw = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for module in net.modules():
            last = module.linear if isinstance(module, Switch) else getattr(module, "head", None)
            if isinstance(last, (nn.Conv2d, nn.Linear)):
                last.weight.normal_(std=3.0, generator=draw)
                last.bias.zero_()
    return deployed(net)


def answer(net: Net, x: Tensor) -> Tensor:
    with torch.inference_mode():
        logits: Tensor = net(x, sparse=True, record=False).logits
    return logits


def one_by_one(net: Net, x: Tensor) -> Tensor:
    with disabled():
        return answer(net, x)


def test_memory_lies_before_a_page_that_faults_and_is_no_number() -> None:
    for count in (1, 511, 512, 513):
        assert before_a_fault((count,), torch.float64, torch.device("cpu"), torch.contiguous_format).data_ptr() % 8 == 0
        last = guarded(torch.ones(count, dtype=torch.float32))
        assert (last.data_ptr() + 4 * count) % 4096 == 0
    first = behind_a_fault((2, 3, 4, 5), torch.float32, torch.device("cpu"), torch.channels_last)
    assert first.data_ptr() % 4096 == 0 and first.is_contiguous(memory_format=torch.channels_last)
    assert bool(first.isnan().all())
    assert empty((3,), first, torch.int64).tolist() == [NOT_AN_INDEX] * 3


FAR = """
import os, sys, torch
from dyncomp.fast.codegen import Argument
from dyncomp.fast.layers.compiled import load
from dyncomp.fast.memory import allocated_by
from dyncomp.ops.kernels import Geometry
from tests.guarded import before_a_fault, behind_a_fault, guarded

for allocate, far in ((before_a_fault, 1), (behind_a_fault, -1)):
    with allocated_by(allocate), torch.no_grad():
        weight, bias = torch.ones(8, 3, 3, 3, dtype=torch.float64), torch.ones(8, dtype=torch.float64)
        loaded = load(weight, bias, torch.Size((3, 9, 9)), Geometry((1, 1), (1, 1), (1, 1), 1))
        x = guarded(torch.ones(2, 3, 9, 9, dtype=torch.float64).contiguous(memory_format=torch.channels_last), allocate)
        y = loaded.new(x)
        for place in (None, 0, 1, 2, 3):
            places = (Argument.X, Argument.Y, Argument.WEIGHTS, Argument.BIAS)
            given = {which: memory.data_ptr() for which, memory in zip(places, (x, y, loaded.weights, loaded.bias))}
            if place is not None:
                given[places[place]] += 8 * far
            child = os.fork()
            if not child:
                loaded.code.run(1, given | {Argument.IMAGES: 2})
                os._exit(0)
            print(os.waitpid(child, 0)[1])
"""


def run_python(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", code, *arguments]
    environment = os.environ | {"OMP_WAIT_POLICY": "passive"}  # threads that wait leave cores to others
    given = {"cwd": ROOT, "env": environment, "capture_output": True, "text": True, "timeout": 120}
    return subprocess.run(command, check=False, **given)  # type: ignore[call-overload,no-any-return]


def test_code_that_goes_a_number_too_far_faults() -> None:
    ended = run_python(FAR)
    fault = int(signal.SIGSEGV)
    assert [int(status) & 127 for status in ended.stdout.split()] == 2 * [0, fault, fault, fault, fault], ended.stderr


@pytest.mark.parametrize("seed", [53, 65, 67, 73, 80, 90])
def test_random_networks_answer_as_their_plain_form_does(seed: int) -> None:
    assert case(seed).ran


@pytest.mark.parametrize("spec", ["skipnet", "lkam", "dynamic_conv(kernels=2)"])
def test_threads_that_come_and_go_do_not_meet(spec: str) -> None:
    """Twenty, four at a time, each with other batches."""
    net = made(spec)
    batches = {count: images(count, seed=count) for count in (1, 2, 5, 9)}
    wanted = {count: one_by_one(net, x) for count, x in batches.items()}
    wrong, done = list[str](), list[int]()

    def use(number: int) -> None:
        counts = [1, 2, 5, 9][number % 4 :] + [1, 2, 5, 9][: number % 4]
        for count in counts:
            with by_last_ways():  # which every thread says for itself
                ours = answer(net, batches[count])
            if not torch.allclose(ours, wanted[count], rtol=1e-10, atol=1e-10):
                wrong.append(f"thread {number}, {count} images")
        done.append(number)

    for begin in range(0, 20, 4):
        threads = [threading.Thread(target=use, args=(number,)) for number in range(begin, begin + 4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert not wrong
    assert sorted(done) == list(range(20))


FORKS = """
import os, sys, threading, torch
from dyncomp.fast import by_last_ways
from dyncomp.fast.memory import allocated_by
from tests.fast.test_faults import answer, images, made, one_by_one
from tests.guarded import before_a_fault

of_parent, of_child, beside = (int(number) for number in sys.argv[1:])
torch.set_num_threads(of_parent)
with allocated_by(before_a_fault), by_last_ways():
    net, batches = made("skipnet"), [images(count) for count in (1, 4, 7)]
    wanted, stop = [one_by_one(net, x) for x in batches], threading.Event()

    def is_right():
        return all(torch.allclose(answer(net, x), y, rtol=1e-10, atol=1e-10) for x, y in zip(batches, wanted))

    def use():
        torch.set_num_threads(of_parent)
        with by_last_ways():
            while not stop.is_set():
                assert is_right()

    assert is_right()
    threads = [threading.Thread(target=use) for _ in range(beside)]
    for thread in threads:
        thread.start()
    statuses = []
    for turn in range(3):
        child = os.fork()
        if not child:
            status = 1
            try:
                torch.set_num_threads(of_child)
                status = 0 if is_right() and is_right() else 2
            finally:
                os._exit(status)
        statuses.append(os.waitpid(child, 0)[1])
    stop.set()
    for thread in threads:
        thread.join()
    assert is_right()
assert statuses == [0] * 3, statuses
"""


@pytest.mark.parametrize(
    ("of_parent", "of_child", "beside"), [(1, 1, 2), pytest.param(2, 1, 1, marks=pytest.mark.slow), (2, 2, 0)]
)
def test_a_fork_in_the_middle_answers_alike(of_parent: int, of_child: int, beside: int) -> None:
    """While other threads run the network; on several threads, too, where OpenMP left those of the parent behind."""
    ended = run_python(FORKS, str(of_parent), str(of_child), str(beside))
    assert ended.returncode == 0, ended.stderr


AFTER_SEVERAL_THREADS = """
import os, torch, dyncomp
torch.set_num_threads(2)
net = dyncomp.deployed(dyncomp.build("skipnet", "cifar_resnet8", classes=4, in_channels=1, image_size=16))
x = torch.randn(64, 1, 16, 16)
with torch.inference_mode():
    wanted = net(x, record=False).logits.clone()
    child = os.fork()
    if not child:
        os._exit(int(not torch.allclose(net(x, record=False).logits, wanted, atol=1e-5)))
assert os.waitpid(child, 0)[1] == 0
assert torch.get_num_threads() == 2
"""


def test_a_child_of_a_process_that_ran_on_several_threads_answers_on_one() -> None:
    """Torch's operators would wait for threads that the child does not have."""
    ended = run_python(AFTER_SEVERAL_THREADS)
    assert ended.returncode == 0, ended.stderr


def answer_there(net: Net, x: Tensor) -> list[list[float]]:
    """In a process of its own."""
    torch.set_num_threads(1)
    with allocated_by(before_a_fault), by_last_ways():
        guard_parameters(net)
        found: list[list[float]] = answer(net, guarded(x)).tolist()
    return found


@pytest.mark.parametrize("spec", ["condconv(experts=2, begin=1)"])
def test_a_network_that_is_sent_to_a_spawned_process_answers_alike(spec: str) -> None:
    """Sending moves its parameters into memory that processes share: what was prepared here is prepared anew."""
    net, x = made(spec), images(3)
    wanted = answer(net, x)
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        there = pool.apply(answer_there, (net, x))
    torch.testing.assert_close(torch.tensor(there, dtype=torch.float64), wanted, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(answer(net, x), wanted, rtol=1e-12, atol=1e-12)
