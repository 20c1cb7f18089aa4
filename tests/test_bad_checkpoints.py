"""Checkpoints that say what cannot be: one line, in Python and on the command line, before anything large is made."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import dyncomp
from dyncomp.cli import dyncomp_main
from dyncomp.errors import InvalidValue

Change = Callable[[dict[str, Any]], dict[str, Any]]


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("good") / "net.safetensors"
    net = dyncomp.build("skipnet", "cifar_resnet8(width=0.25)", classes=3, in_channels=1, image_size=8)
    dyncomp.save(net, path)
    return path


def rewritten(good: Path, path: Path, facts: Mapping[str, Any], kind: torch.dtype | None = None, **told: str) -> Path:
    """The good file with other facts (`identity` is added to), other metadata, or floats of another type."""
    with safe_open(str(good), framework="pt") as file:
        metadata = file.metadata()
    known, facts = json.loads(metadata["dyncomp"]), dict(facts)
    known["identity"] |= facts.pop("in_identity", {})
    weights = {name: value.to(kind) if kind and value.is_floating_point() else value for name, value in tensors(good)}
    save_file(weights, str(path), metadata=metadata | {"dyncomp": json.dumps(known | facts)} | told)
    return path


def tensors(good: Path) -> list[tuple[str, torch.Tensor]]:
    return list(load_file(str(good)).items())


def identity(**facts: Any) -> dict[str, Any]:
    return {"in_identity": facts}


HUGE = 10**12
NO_SPEC, NO_COUNT, NO_SEED = "a spec as text belongs", "an integer above 0 belongs", "an integer from -2\\*\\*63 to"
BAD: list[tuple[dict[str, Any], str]] = [
    *((identity(method=value), NO_SPEC) for value in (5, None, ["static"], {"a": 1}, "")),
    *((identity(backbone=value), NO_SPEC) for value in (5, None, ["vgg11"], {"a": 1})),
    *((identity(seed=value), NO_SEED) for value in ("abc", None, 1.5, [1], True, 2**64, -(2**63) - 1)),
    (identity(backbone="cifar_resnet8(width=1e5)"), "numbers, and the one that it names has"),
    *(({"identity": value}, "where an object belongs") for value in ("method backbone seed", None, [1])),
    *(({name: value}, NO_COUNT) for name in ("classes", "in_channels") for value in ("x", None, [1], 0, -1, 2.0)),
    *(({"image_size": value}, "from 1 to 10000 belongs") for value in ("x", None, 0, -4, 10**7, 8.0)),
    ({"classes": HUGE, "class_names": []}, "classes=1000000000000, where no more than the .* numbers in the file"),
    ({"classes": 4000, "class_names": []}, "holds the weights of another network"),
    ({"in_channels": HUGE}, "where no more than the .* numbers in the file"),
    ({"class_names": ["a"]}, r"class_names=\['a'\], where one name for each of 3 classes"),
    *(({"class_names": value}, "a list of names") for value in (5, "abc", [None, 1, 2], {"a": 1})),
    *(({name: value}, "a list of numbers, or null") for name in ("mean", "std") for value in ("a", ["a"], 0.5, [None])),
    *(({name: [value]}, "give finite") for name in ("mean", "std") for value in (float("nan"), float("inf"))),
    ({"mean": [10**400]}, "cannot be read"),
    *(({"std": [value]}, "give deviations above 0") for value in (0, -1.0)),
    *(({"shorter_side": value}, "or null belongs") for value in ("x", 0, 10**9, [8])),
    ({"shorter_side": 3}, "below image_size"),
    ({"deployed": "yes"}, "true or false"),
    *(({"dtype": value}, "where one of float32, float64, bfloat16") for value in ("float8", None, ["float32"], 3)),
    ({"dtype": "float64"}, "as F32, and says it is float64"),
    ({"dyncomp_format": "0"}, "its format is 0; there is none below 1"),
    ({"dyncomp_format": "-1"}, "is not a checkpoint of dyncomp"),
]


def made(good: Path, folder: Path, facts: dict[str, Any]) -> Path:
    facts = dict(facts)
    told = {name: facts.pop(name) for name in ("dyncomp_format",) if name in facts}
    if "identity" not in facts:
        return rewritten(good, folder / "bad.safetensors", facts, None, **told)
    with safe_open(str(good), framework="pt") as file:
        known = json.loads(file.metadata()["dyncomp"])
    return rewritten(good, folder / "bad.safetensors", {}, None, dyncomp=json.dumps(known | facts))


@pytest.mark.parametrize(("facts", "message"), BAD, ids=lambda value: str(value)[:60])
def test_a_field_that_cannot_be_is_told(facts: dict[str, Any], message: str, good: Path, tmp_path: Path) -> None:
    path = made(good, tmp_path, facts)
    began = time.monotonic()
    with pytest.raises(InvalidValue, match=message) as caught:
        dyncomp.load(path)
    assert time.monotonic() - began < 10
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)


def test_deep_text_is_told(good: Path, tmp_path: Path) -> None:
    with pytest.raises(InvalidValue, match="is not a checkpoint of dyncomp"):
        dyncomp.load(rewritten(good, tmp_path / "bad", {}, dyncomp="[" * 100_000))


@pytest.mark.parametrize("kind", [torch.int32, torch.float16, torch.float64, torch.uint8])
def test_weights_of_another_type_are_not_rounded(kind: torch.dtype, good: Path, tmp_path: Path) -> None:
    with pytest.raises(InvalidValue, match="and says it is float32"):
        dyncomp.load(rewritten(good, tmp_path / "bad", {}, kind))


def line_of(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    monkeypatch.setattr(sys, "argv", ["dyncomp", *map(str, arguments)])
    with pytest.raises(SystemExit) as caught:
        dyncomp_main()
    out, err = capsys.readouterr()
    assert caught.value.code == 2, err
    assert (out, err.count("\n")) == ("", 1)
    return err


@pytest.mark.parametrize("verb", ["export", "profile"])
@pytest.mark.parametrize("number", range(0, len(BAD), 3))
def test_the_command_line_says_it_in_one_line(
    verb: str,
    number: int,
    good: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    path = made(good, tmp_path, BAD[number][0])
    assert line_of(monkeypatch, capsys, verb, path).startswith("error: ")
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


RUN = {"dataset": "shapes", "device": "cpu", "budget": 1.0, "recipe": {"epochs": 1.0}}


@pytest.mark.parametrize("changed", [{"dataset": 5}, {"device": None}, {"recipe": "quick"}, {"recipe": {"speed": 3}}])
def test_what_only_a_run_says_is_checked_too(
    changed: dict[str, Any],
    good: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = rewritten(good, tmp_path / "bad", identity(**RUN | changed))
    assert f"says identity.{next(iter(changed))}=" in line_of(monkeypatch, capsys, "profile", path)


def test_the_format_decides_not_the_version(good: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = rewritten(good, tmp_path / "later.safetensors", identity(version="99.0"))
    assert dyncomp.load(path).classes == ("0", "1", "2")
    monkeypatch.setattr(sys, "argv", ["dyncomp", "export", str(path), "--format", "torch.export"])
    with pytest.raises(SystemExit) as caught:
        dyncomp_main()
    assert not caught.value.code
    assert Path("later.dense.pt2").is_file()
