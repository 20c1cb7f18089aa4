"""The fast path can be switched off, is missed by nothing where it cannot be had, and says so."""

from __future__ import annotations

import copy
import os
import subprocess
import sys
from multiprocessing.connection import Connection
from pathlib import Path

import pytest
import torch
from torch import Tensor

import dyncomp
from dyncomp import fast
from dyncomp.bench.timing import _key as timing_key
from dyncomp.core import Decision, Net, measure_costs
from dyncomp.fast.availability import _Process
from dyncomp.fast.behaviour import runs_as
from dyncomp.ops import Exit, Filtered, Gated, Mixed
from dyncomp.profile.child import Child
from tests.jobs import config
from tests.small import conv, gated, images, network

WITHOUT_GENERATOR = """
import sys
sys.modules["llvmlite"] = None  # as if it were not installed
import torch, dyncomp, dyncomp.fast
for method in ("skipnet", "condconv(experts=3)", "fbs", "early_exit"):
    net = dyncomp.build(method, "cifar_resnet8", classes=4, image_size=9).double().eval()
    ready, x = dyncomp.deployed(net), torch.randn(5, 3, 9, 9, dtype=torch.float64)
    with torch.inference_mode():
        assert torch.allclose(ready(x, record=False).logits, net(x).logits, atol=1e-9), method
print(dyncomp.fast.available().why_not)
"""


def python(code: str, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, **variables}
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=False)


def test_core_and_ops_load_no_code_generator() -> None:
    found = python(
        "import sys, dyncomp.core, dyncomp.ops; print('llvmlite' in sys.modules, 'dyncomp.fast' in sys.modules)"
    )
    assert found.stdout.split() == ["False", "False"], found.stderr


def test_all_works_without_code_generator() -> None:
    found = python(WITHOUT_GENERATOR)
    assert found.returncode == 0, found.stderr
    assert "llvmlite is not installed" in found.stdout


def test_a_variable_that_says_neither_is_told_in_one_line() -> None:
    found = python("import dyncomp.fast", DYNCOMP_FAST="maybe")
    assert "InvalidValue: DYNCOMP_FAST=maybe; give 0, which switches the fast path off, or 1" in found.stderr


def test_the_variable_switches_the_fast_path_off() -> None:
    found = python("from dyncomp import fast; print(fast.is_enabled(), fast.available())", DYNCOMP_FAST="0")
    assert found.stdout.split()[0] == "False"
    assert "off" in found.stdout


@pytest.mark.parametrize(("said", "on"), [("0", False), ("1", True), ("", True), (None, True)])
def test_what_the_variable_may_say(said: str | None, on: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DYNCOMP_FAST", raising=False)
    if said is not None:
        monkeypatch.setenv("DYNCOMP_FAST", said)
    assert _Process().enabled is on


@pytest.mark.parametrize("method", ["static", "skipnet", "blockdrop", "condconv(experts=3)", "fbs", "early_exit"])
@torch.inference_mode()
def test_nothing_is_generated_or_chosen_while_disabled(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with torch.inference_mode(False):
        net = dyncomp.build(method, "cifar_resnet8", classes=4, image_size=9, seed=3).double().eval()
        ready = dyncomp.deployed(net)
    x = torch.randn(5, 3, 9, 9, dtype=torch.float64).contiguous(memory_format=torch.channels_last)
    wanted = net(x).logits

    def never(*given: object) -> None:
        raise AssertionError("the fast path ran")

    monkeypatch.setattr("dyncomp.fast.codegen.Code.call", never)
    monkeypatch.setattr("dyncomp.fast.tuning._try", never)
    with fast.disabled():
        assert not fast.available().enabled
        torch.testing.assert_close(ready(x, record=False).logits, wanted, rtol=0, atol=1e-9)
    assert fast.is_enabled()


def tell(pipe: Connection) -> None:
    pipe.send(fast.is_enabled())


@pytest.mark.parametrize("enabled", [True, False])
def test_a_process_is_as_the_thread_that_starts_it(enabled: bool) -> None:
    if enabled:
        child = Child(tell)
    else:
        with fast.disabled():
            child = Child(tell)
    assert child.receive(60) is enabled
    child.end()


def test_a_timing_without_the_fast_path_is_another_timing(tmp_path: Path) -> None:
    asked = config(tmp_path / "out")
    with fast.disabled():
        without = timing_key([], 2, asked)
    assert without != timing_key([], 2, asked)


class Contrary(Gated):
    """Runs its block where its gate would skip it."""

    def decide(self, x: Tensor) -> Decision:
        decision = super().decide(x)
        used = 1 - decision.used
        return Decision(used, used, used)


class Doubled(Mixed):
    """Says another forward."""

    def forward(self, x: Tensor) -> Tensor:
        return 2 * super().forward(x)


class Renamed(Filtered):
    """Overrides nothing but how it is made."""

    def __init__(self, op: Filtered) -> None:
        super().__init__(op.producer, op.before, op.after, op.consumer, op.switch)


def test_an_op_of_a_plugin_that_decides_otherwise_keeps_its_own_form() -> None:
    op = gated(conv())
    net = network(lambda: [Contrary(copy.deepcopy(op.block), copy.deepcopy(op.gate))])
    x, ready = images(), dyncomp.deployed(net)
    with torch.inference_mode():
        torch.testing.assert_close(ready(x, record=False).logits, net(x).logits, rtol=0, atol=1e-9)


def test_a_subclass_has_the_fused_forms_of_its_class_unless_it_runs_otherwise() -> None:
    op = gated(conv())
    assert runs_as(op, Gated) and not runs_as(op, Exit)
    assert not runs_as(Contrary(op.block, op.gate), Gated)
    assert not runs_as(Doubled.__new__(Doubled), Mixed)
    assert runs_as(Renamed.__new__(Renamed), Filtered)


def test_a_subclassed_filtered_op_runs_in_generated_code() -> None:
    net = dyncomp.build("lkam", "cifar_resnet8", classes=4, image_size=9, seed=3).double().eval()
    for op in net.sites.values():
        op.__class__ = Renamed  # as a plugin that subclasses Filtered would make it
    net = Net(net.model).eval()
    net.costs = measure_costs(net, torch.zeros(1, 3, 9, 9, dtype=torch.float64))
    ready = dyncomp.deployed(net)
    x = torch.randn(5, 3, 9, 9, dtype=torch.float64)
    assert all(op.fused is not None for op in ready.sites.values())
    with torch.inference_mode(), fast.by_last_ways():
        torch.testing.assert_close(ready(x, record=False).logits, net(x).logits, rtol=0, atol=1e-9)
