"""Generated code on disk: found by other processes, never trusted when damaged, never needed."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import cast, get_args, get_type_hints

import pytest
import torch

from dyncomp.fast import codegen
from dyncomp.fast.codegen import ActivationArgument, build, object_cache
from dyncomp.fast.codegen.build import Program, compiled
from dyncomp.fast.codegen.object_cache import object_code, usable_folder

NETWORK = """
import torch
from dyncomp import build, deployed
from dyncomp.fast.codegen import build as made
from dyncomp.fast.tuning import by_last_ways
compiled = []
translated = made._translated
made._translated = lambda *given: (compiled.append(1), translated(*given))[1]
net = build("convnet_aig", "cifar_resnet8(width=0.5)", classes=3, image_size=16)
torch.manual_seed(0)
with by_last_ways(), torch.inference_mode():
    images = torch.randn(2, 3, 16, 16).to(memory_format=torch.channels_last)
    answers = deployed(net)(images, record=False).logits.tolist()
print(len(compiled), answers)
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv(object_cache.VARIABLE, raising=False)
    return tmp_path / "dyncomp" / "code"


def never() -> bytes:
    raise AssertionError("compiled although it is stored")


@pytest.mark.skipif(codegen.this_machine() is None, reason="no machine code for this machine")
def test_a_second_process_compiles_nothing_and_answers_alike(folder: Path) -> None:
    said = []
    for seed in ("1", "2"):  # the order of sets must not reach the source
        environment = {**os.environ, "PYTHONHASHSEED": seed}
        command = [sys.executable, "-c", NETWORK]
        said.append(subprocess.check_output(command, env=environment, text=True).partition(" "))
    (compiled, _, answers), (again, _, same) = said
    assert int(compiled) == len(list(folder.iterdir())) > 0
    assert (again, same) == ("0", answers)


def test_code_is_kept_by_its_source(folder: Path) -> None:
    assert object_code("a", lambda: b"code of a") == b"code of a"
    assert object_code("b", lambda: b"code of b") == b"code of b"
    assert object_code("a", never) == b"code of a"
    assert len(list(folder.iterdir())) == 2


@pytest.mark.parametrize("damage", [b"", b"short", bytes(32) + b"other code", b"code of a"])
def test_a_damaged_file_is_made_anew(folder: Path, damage: bytes) -> None:
    object_code("a", lambda: b"code of a")
    (file,) = folder.iterdir()
    file.write_bytes(damage)
    assert object_code("a", lambda: b"code of a") == b"code of a"
    assert object_code("a", never) == b"code of a"


def test_a_folder_that_others_can_write_into_is_not_used(folder: Path) -> None:
    object_code("a", lambda: b"code of a")
    folder.chmod(0o777)
    assert usable_folder() is None
    assert object_code("a", lambda: b"made now") == b"made now"
    folder.chmod(0o700)
    assert object_code("a", never) == b"code of a"


def test_a_folder_that_cannot_be_made_is_done_without(folder: Path) -> None:
    folder.parent.write_text("a file where the folder would be")
    assert usable_folder() is None
    assert object_code("a", lambda: b"code of a") == b"code of a"


def test_a_full_disk_costs_only_time(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*given: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    assert object_code("a", lambda: b"code of a") == b"code of a"
    assert list(folder.iterdir()) == []


def test_it_can_be_switched_off(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(object_cache.VARIABLE, "0")
    assert object_code("a", lambda: b"code of a") == b"code of a"
    assert not folder.exists()


def test_what_was_not_used_for_longest_is_removed(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(object_cache, "MOST_FILES", 4)
    for age, source in enumerate("abcd"):
        object_code(source, source.encode)
        newest = max(folder.iterdir(), key=lambda file: file.stat().st_ctime_ns)
        os.utime(newest, (1000 + age, 1000 + age))
    object_code("a", never)  # used again
    object_code("e", lambda: b"e")
    assert {file.read_bytes()[-1:] for file in folder.iterdir()} == {b"a", b"d", b"e"}


def described(kind: type, seen: set[type]) -> set[type]:
    """A dataclass and all that its fields are of."""
    seen.add(kind)
    for hint in get_type_hints(kind).values():
        for part in (hint, *get_args(hint)):
            if is_dataclass(part) and part not in seen:
                described(cast(type, part), seen)
    return seen


@pytest.mark.parametrize("program", Program.__subclasses__(), ids=lambda program: program.__name__)
def test_the_text_of_a_program_tells_all_of_it(program: type) -> None:
    for kind in described(program, set()):
        assert is_dataclass(kind)
        assert kind.__dataclass_params__.frozen  # type: ignore[attr-defined]
        assert "__repr__" in vars(kind)
        assert kind.__repr__.__qualname__ == f"{kind.__qualname__}.__repr__"
        assert all(field.repr and field.compare for field in fields(kind))


@pytest.mark.skipif(codegen.this_machine() is None, reason="no machine code for this machine")
def test_stored_code_is_loaded_without_emitting_it_while_its_emitters_are_the_same(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    emitted: list[Program] = []

    def noting(program: Program) -> str:
        emitted.append(program)
        return made(program)

    made = build._emitted
    monkeypatch.setattr(build, "_emitted", noting)
    program = codegen.Activation(codegen.Number(torch.float64), cast(codegen.machine.Machine, codegen.this_machine()))
    values = torch.tensor([-1.0, 2.0, -3.0, 4.0, 5.0], dtype=torch.float64)
    for times, emitters in ((1, "some text"), (1, "some text"), (2, "edited")):
        monkeypatch.setattr(build, "_emitters", lambda text=emitters: text)
        code, y = compiled.__wrapped__(program), values.clone()
        counts = {ActivationArgument.IMAGES: 1, ActivationArgument.NUMBERS: len(y)}
        code.run(1, codegen.addresses({ActivationArgument.Y: y}) | counts)
        assert torch.equal(y, values.relu())
        assert emitted == [program] * times
    assert len(list(folder.iterdir())) == 2
