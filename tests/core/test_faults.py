"""Generated code stays inside its tensors, whatever the caller does: every buffer lies before a page that faults."""

from __future__ import annotations

import copy
import multiprocessing
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from benchmarks.faults.cases import case
from dyncomp import build
from dyncomp.core import Decision, Filtered, Gated, Mixed, Net, Planned, ResidualBlock, Switch, deployed, native
from dyncomp.core.direct import left_out
from dyncomp.core.gates import Gate, Products
from dyncomp.core.kernels import Geometry
from dyncomp.core.loaded import load
from dyncomp.core.memory import allocated_by, empty
from dyncomp.core.tuner import by_last_ways
from tests.guarded import NOT_AN_INDEX, before_a_fault, behind_a_fault, forget_scratch, guard_parameters, guarded

pytestmark = pytest.mark.skipif(native.this_machine() is None, reason="no machine code for this machine")

ROOT = Path(__file__).resolve().parent.parent.parent


@pytest.fixture(autouse=True)
def _guarded() -> Iterator[None]:
    with allocated_by(before_a_fault), by_last_ways():
        forget_scratch()
        yield
        forget_scratch()


def images(count: int, seed: int = 0) -> Tensor:
    draw = torch.Generator().manual_seed(seed)
    x = torch.randn(count, 3, 17, 17, generator=draw, dtype=torch.float64)
    return guarded(x.contiguous(memory_format=torch.channels_last))


def made(spec: str) -> Net:
    """Ready for use; its gates decide about half of the images one way."""
    net = build(spec, "cifar_resnet8(width=0.5)", classes=5, in_channels=3, image_size=17, seed=0).double()
    draw = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for module in net.modules():
            last = module.linear if isinstance(module, Switch) else getattr(module, "head", None)
            if isinstance(last, (nn.Conv2d, nn.Linear)):
                last.weight.normal_(std=3.0, generator=draw)
                last.bias.zero_()
    net = deployed(net)
    guard_parameters(net)
    return net


def answer(net: Net, x: Tensor) -> Tensor:
    with torch.inference_mode():
        logits: Tensor = net(x, sparse=True, record=False).logits
    return logits


def one_by_one(net: Net, x: Tensor) -> Tensor:
    with left_out():
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
import sys, torch
from dyncomp.core.kernels import Geometry
from dyncomp.core.loaded import load
from dyncomp.core.memory import allocated_by
from tests.guarded import before_a_fault, behind_a_fault, guarded

side, place, far = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
allocate = {"end": before_a_fault, "begin": behind_a_fault}[side]
with allocated_by(allocate), torch.no_grad():
    weight, bias = torch.ones(8, 3, 3, 3, dtype=torch.float64), torch.ones(8, dtype=torch.float64)
    loaded = load(weight, bias, torch.Size((3, 9, 9)), Geometry((1, 1), (1, 1), (1, 1), 1))
    x = guarded(torch.ones(2, 3, 9, 9, dtype=torch.float64).contiguous(memory_format=torch.channels_last), allocate)
    y = loaded.new(x)
    given = [x.data_ptr(), y.data_ptr(), loaded.weights.data_ptr(), loaded.bias.data_ptr()]
    given[place] += 8 * far
    x_at, y_at, weights_at, bias_at = given
    loaded.code.run(1, x_at, y_at, weights_at, 0, bias_at, 0, 0, 0, 2)
"""


def run_python(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", code, *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)


@pytest.mark.parametrize(("side", "place", "far"), [("end", 0, 0), ("end", 0, 1), ("end", 1, 1), ("begin", 2, -1)])
def test_code_that_goes_a_number_too_far_faults(side: str, place: int, far: int) -> None:
    ended = run_python(FAR, side, str(place), str(far))
    assert ended.returncode == (-11 if far else 0), ended.stderr


@pytest.mark.parametrize("seed", [1, 8, 60, 111, 160, 212])
def test_random_networks_answer_as_their_plain_form_does(seed: int) -> None:
    assert case(seed).ran


class Fixed(nn.Module):
    """In the place of a gate, a router or a policy: says the same of every batch."""

    def __init__(self, said: Tensor) -> None:
        super().__init__()
        self.said = said

    def forward(self, x: Tensor) -> Tensor:
        return self.said


class FixedGate(Gate):
    """Opens by given numbers, in a run and out of one."""

    def __init__(self, gate: Gate, said: Tensor, overrules: bool) -> None:
        super().__init__()
        self.gate, self.said, self.overrules = gate, said, overrules

    def logits(self, x: Tensor) -> Tensor:
        self.gate.logits(x)
        return self.said

    def products(self) -> Products | None:
        return self.gate.products() if self.overrules else None

    def overruled(self) -> Tensor:
        return self.said


class FixedSwitch(Switch):
    """Uses given filters, in a run and out of one."""

    def __init__(self, switch: Switch, said: Tensor, overrules: bool) -> None:
        super().__init__()
        self.switch, self.units, self.said, self.overrules = switch, switch.units, said, overrules

    def forward(self, pooled: Tensor) -> Decision:
        used = (self.said > 0).to(pooled)
        return Decision(used, used, used)

    def products(self) -> object:  # type: ignore[override]
        return self.switch.products() if self.overrules else None

    def overruled(self) -> Tensor:
        return self.said


class Other(nn.Module):
    """Gives another number of images than it gets."""

    def __init__(self, layer: nn.Module, more: bool) -> None:
        super().__init__()
        self.layer, self.more = layer, more

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.layer(x)
        return torch.cat([y, y]).contiguous(memory_format=torch.channels_last) if self.more else y[:1]


def ones(*shape: int) -> Tensor:
    return guarded(torch.ones(shape, dtype=torch.float64))


def first(net: Net, kind: type[nn.Module]) -> nn.Module:
    return next(module for module in net.modules() if type(module) is kind)


def gate_says(said: Tensor, overrules: bool) -> Callable[[Net], None]:
    def change(net: Net) -> None:
        op = first(net, Gated)
        op.gate = FixedGate(op.gate, said, overrules)

    return change


def plain_gate_says(said: Tensor) -> Callable[[Net], None]:
    def change(net: Net) -> None:
        first(net, Gated).gate = Fixed(said)

    return change


def switch_says(said: Tensor, overrules: bool) -> Callable[[Net], None]:
    def change(net: Net) -> None:
        op = first(net, Filtered)
        op.switch = FixedSwitch(op.switch, said, overrules)

    return change


def policy_says(said: Tensor) -> Callable[[Net], None]:
    def change(net: Net) -> None:
        first(net, Planned).policy = Fixed(said)

    return change


def router_says(said: Tensor) -> Callable[[Net], None]:
    def change(net: Net) -> None:
        for module in net.modules():
            if type(module) is Mixed:
                module.router = Fixed(said)

    return change


def a_body_gives(more: bool) -> Callable[[Net], None]:
    def change(net: Net) -> None:
        block = first(net, ResidualBlock)
        block.body = Other(block.body, more)

    return change


def a_shortcut_gives(more: bool) -> Callable[[Net], None]:
    def change(net: Net) -> None:
        block = first(net, ResidualBlock)
        block.shortcut = Other(block.shortcut, more)

    return change


def the_stem_gives(more: bool) -> Callable[[Net], None]:
    def change(net: Net) -> None:
        name, stem = next((name, part) for name, part in net.model.named_modules() if name.endswith("stem"))
        net.model.set_submodule(name, Other(stem, more))

    return change


class Remembers(nn.Module):
    """Leaves recurrent gates a state of so many images."""

    def __init__(self, layer: nn.Module, net: Net, state: Tensor) -> None:
        super().__init__()
        self.layer, self.owner, self.state = layer, [net], state

    def forward(self, x: Tensor) -> Tensor:
        for name in ("hidden", "memory"):
            self.owner[0].tape.remember(name, self.state)
        y: Tensor = self.layer(x)
        return y


def state_is(state: Tensor) -> Callable[[Net], None]:
    def change(net: Net) -> None:
        name, stem = next((name, part) for name, part in net.model.named_modules() if name.endswith("stem"))
        net.model.set_submodule(name, Remembers(stem, net, state))

    return change


WRONG: dict[str, tuple[str, Callable[[Net], None]]] = {}
for rows in ((0, 1), (1, 1), (2, 1), (9, 1), (3, 3), (3, 0)):
    WRONG[f"a gate is overruled by {rows}"] = "convnet_aig", gate_says(ones(*rows), True)
    if rows != (3, 3):
        WRONG[f"a gate says {rows}"] = "convnet_aig", gate_says(ones(*rows), False)
        WRONG[f"a gate of other code says {rows}"] = "convnet_aig", plain_gate_says(ones(*rows))
for rows in ((0, 8), (1, 8), (2, 8), (9, 8), (3, 1), (3, 7), (3, 9)):
    WRONG[f"a switch is overruled by {rows}"] = "lkam", switch_says(ones(*rows), True)
    WRONG[f"a switch says {rows}"] = "lkam", switch_says(ones(*rows), False)
    WRONG[f"a weighted switch says {rows}"] = "fbs", switch_says(ones(*rows), False)
for rows in ((0, 3), (1, 3), (2, 3), (9, 3), (3, 0), (3, 2), (3, 5)):
    WRONG[f"a policy says {rows}"] = "blockdrop", policy_says(ones(*rows))
for rows in ((0, 2), (2, 2), (9, 2), (3, 1), (3, 4)):
    WRONG[f"a router says {rows}"] = "condconv(experts=2, begin=1)", router_says(ones(*rows))
    WRONG[f"routers of layers say {rows}"] = "dynamic_conv(kernels=2)", router_says(ones(*rows))
for rows in ((0, 10), (2, 10), (9, 10), (3, 9), (3, 11)):
    WRONG[f"a state of {rows}"] = "skipnet", state_is(ones(*rows))

LAYERS = [
    (spec, change, more)
    for spec in ("static", "convnet_aig", "skipnet", "blockdrop", "condconv(begin=1)", "lkam")
    for change in (a_body_gives, a_shortcut_gives, the_stem_gives)
    for more in (True, False)
]


@pytest.fixture(scope="module")
def nets() -> dict[str, Net]:
    return {}


@pytest.mark.parametrize("name", WRONG)
def test_whoever_decides_for_other_images_is_told(name: str, nets: dict[str, Net]) -> None:
    spec, change = WRONG[name]
    if spec not in nets:
        nets[spec] = made(spec)
    net, x = copy.deepcopy(nets[spec]), images(3)
    answer(net, x)
    change(net)
    for record in (False, True):
        with torch.inference_mode(), pytest.raises((ValueError, RuntimeError)) as caught:
            net(x, sparse=True, record=record)
        assert len(str(caught.value).splitlines()) < 3


@pytest.mark.parametrize(("spec", "change", "more"), LAYERS)
def test_a_layer_that_changes_the_batch_raises_or_does_what_torch_does(
    spec: str, change: Callable[[bool], Callable[[Net], None]], more: bool, nets: dict[str, Net]
) -> None:
    """Outputs of one image are added to those of all, as torch's sums are."""
    if spec not in nets:
        nets[spec] = made(spec)
    net, x = copy.deepcopy(nets[spec]), images(3)
    change(more)(net)
    try:
        wanted = one_by_one(net, x)
    except (ValueError, RuntimeError):
        with pytest.raises((ValueError, RuntimeError)):
            answer(net, x)
    else:
        torch.testing.assert_close(answer(net, x), wanted, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("spec", ["skipnet", "lkam", "dynamic_conv(kernels=2)"])
def test_threads_that_come_and_go_do_not_meet(spec: str, nets: dict[str, Net]) -> None:
    """Twenty, four at a time, each with other batches."""
    if spec not in nets:
        nets[spec] = made(spec)
    net = nets[spec]
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
from dyncomp.core.memory import allocated_by
from dyncomp.core.tuner import by_last_ways
from tests.core.test_faults import answer, images, made, one_by_one
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
    for turn in range(5):
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
assert statuses == [0] * 5, statuses
"""


@pytest.mark.parametrize(("of_parent", "of_child", "beside"), [(1, 1, 3), (2, 1, 2), (2, 2, 0)])
def test_a_fork_in_the_middle_answers_alike(of_parent: int, of_child: int, beside: int) -> None:
    """While other threads run the network; on several threads, too, where OpenMP left those of the parent behind."""
    ended = run_python(FORKS, str(of_parent), str(of_child), str(beside))
    assert ended.returncode == 0, ended.stderr


def answer_there(net: Net, x: Tensor) -> list[list[float]]:
    """In a process of its own."""
    torch.set_num_threads(1)
    with allocated_by(before_a_fault), by_last_ways():
        guard_parameters(net)
        found: list[list[float]] = answer(net, guarded(x)).tolist()
    return found


@pytest.mark.parametrize("spec", ["skipnet", "condconv(experts=2, begin=1)"])
def test_a_network_that_is_sent_to_a_spawned_process_answers_alike(spec: str, nets: dict[str, Net]) -> None:
    """Sending moves its parameters into memory that processes share: what was prepared here is prepared anew."""
    net, x = made(spec), images(3)
    wanted = answer(net, x)
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        there = pool.apply(answer_there, (net, x))
    torch.testing.assert_close(torch.tensor(there, dtype=torch.float64), wanted, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(answer(net, x), wanted, rtol=1e-12, atol=1e-12)
