"""`dyncomp profile`: what is printed and written, the exit status, one line for bad input."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from dyncomp.bench import profiling
from dyncomp.cli import dyncomp_main

MODULE = """
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(3, 5)

    def forward(self, x):
        if len(x) == 3:
            raise MemoryError("no room")
        return self.linear(x.mean((2, 3)))
"""


@pytest.fixture(autouse=True)
def _empty_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(profiling, "SECONDS", 0.0)
    none = dict.fromkeys(("activation_mib", "memory_mib_inference", "memory_mib_training", "memory_error"))
    monkeypatch.setattr("dyncomp.bench.modules.figures_of", lambda *given: {"params_mib": 1.0, **none})
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.delitem(sys.modules, "profiled_by_name", raising=False)
    Path("profiled_by_name.py").write_text(MODULE)


@pytest.fixture
def profiled(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Profiled:
    return Profiled(monkeypatch, capsys)


class Profiled:
    """Calls the verb; gives the exit status and what came out."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        self.monkeypatch, self.capsys = monkeypatch, capsys

    def __call__(self, *arguments: str) -> tuple[int, str, str]:
        self.monkeypatch.setattr(sys, "argv", ["dyncomp", "profile", *arguments])
        with pytest.raises(SystemExit) as caught:
            dyncomp_main()
        assert isinstance(caught.value.code, int)
        return caught.value.code, *self.capsys.readouterr()


ASKED = ("--model", "profiled_by_name:Net", "--input", "3x8x8", "--device", "cpu")


def test_a_module_of_the_working_directory(profiled: Profiled) -> None:
    status, out, err = profiled(*ASKED, "--batch-sizes", "1,2", "--json", "out/found.json")
    assert (status, err) == (0, "")
    lines = out.splitlines()
    assert lines[:2] == ["profiled_by_name:Net", "input        3x8x8, standard normal noise, cpu"]
    assert "MACs         15.0 per image, FLOPs 30.0 (2 per MAC)" in lines
    found = json.loads(Path("out/found.json").read_text())
    assert (found["macs"], found["flops"], found["params"]) == (15, 30, 20)
    assert [row["batch_size"] for row in found["latency"]] == [1, 2]


def test_what_could_not_be_measured_is_status_1(profiled: Profiled) -> None:
    status, out, err = profiled(*ASKED, "--batch-sizes", "2,3")
    assert (status, err) == (1, "")
    assert "batch 2: p50" in out
    assert "             batch 3: MemoryError: no room; give other batch sizes" in out
    assert "error        latency, batch 3: MemoryError: no room; " in out


BAD: list[tuple[tuple[str, ...], str]] = [
    ((), "give either a checkpoint of a run or --model"),
    (("a.safetensors", *ASKED), "give either a checkpoint of a run or --model"),
    (("a.safetensors",), "a.safetensors: no such file; give a checkpoint of a run"),
    (("profiled_by_name.py",), "is not a checkpoint of dyncomp"),
    (("a.safetensors", "--input", "3x8x8"), "a checkpoint knows what its network is given; leave --input out"),
    (("--model", "profiled_by_name:Net"), "input='': give channels x height x width of an image, such as --input"),
    (("--model", "profiled_by_name:Net", "--input", "3x8"), "input='3x8': give channels x height x width"),
    (("--model", "profiled_by_name:Net", "--input", "0x8x8"), "input='0x8x8': give channels x height x width"),
    (("--model", "profiled_by_name", "--input", "3x8x8"), "model='profiled_by_name': give module:name"),
    (("--model", "nowhere_at_all:Net", "--input", "3x8x8"), "No module named 'nowhere_at_all'"),
    ((*ASKED, "--batch-sizes", "0"), "batch-sizes='0': give whole numbers from 1 to 65536"),
    ((*ASKED[:4], "--device", "abacus"), "device 'abacus' is not available"),
    ((*ASKED, "--include-path", "absent.py"), "absent.py: no such file or folder"),
    ((*ASKED, "--bogus"), "No such option: --bogus"),
]


@pytest.mark.parametrize(("arguments", "words"), BAD, ids=[f"{i}-{' '.join(b[0])}" for i, b in enumerate(BAD)])
def test_bad_input_is_one_line_and_status_2(arguments: tuple[str, ...], words: str, profiled: Profiled) -> None:
    status, out, err = profiled(*arguments)
    assert (status, out) == (2, "")
    assert words in err
    assert err.startswith("error: ")
    assert err.count("\n") == 1
