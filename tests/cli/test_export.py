"""The verb `export`: what it writes, and what it answers to what it cannot write."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from dyncomp._build import build
from dyncomp._checkpoint import save
from dyncomp.cli import dyncomp_main
from dyncomp.errors import CannotExport
from dyncomp.export import load_exported
from dyncomp.export.formats import FORMATS
from dyncomp.train import save_checkpoint

SHAPE = {"classes": 3, "in_channels": 1, "image_size": 8}
IDENTITY = {"method": "skipnet", "backbone": "cifar_resnet8(width=0.25)", "dataset": "digits", "seed": 0}


@pytest.fixture(autouse=True)
def _empty_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")


def checkpoint(folder: Path, **identity: Any) -> Path:
    path = folder / "net.safetensors"
    net = build("skipnet", IDENTITY["backbone"], **SHAPE)  # type: ignore[arg-type]
    save_checkpoint(net, path, {**SHAPE, "identity": {**IDENTITY, "version": "0.1.0", **identity}})
    return path


def exports(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> Any:
    monkeypatch.setattr(sys, "argv", ["dyncomp", "export", *map(str, arguments)])
    with pytest.raises(SystemExit) as caught:
        dyncomp_main()
    return caught.value.code


@pytest.mark.parametrize(("form", "words"), [("dense", "nothing is saved"), ("routed", "one image at a time")])
def test_a_checkpoint_becomes_a_file_that_says_what_it_is(
    form: str, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert not exports(monkeypatch, checkpoint(tmp_path), "--format", "torch.export", f"--{form}")
    assert f"net.{form}.pt2: the {form} form" in (out := capsys.readouterr().out)
    assert words in out
    (written,) = Path().iterdir()
    found = load_exported(written)
    assert {name: found.facts[name] for name in IDENTITY} == IDENTITY
    assert found.facts["image_shape"] == [1, 8, 8]
    net = build("skipnet", "cifar_resnet8(width=0.25)", **SHAPE)
    x = torch.randn(3, 1, 8, 8)
    assert torch.allclose(torch.from_numpy(found(x.numpy())), net(x).logits, atol=1e-4)
    assert json.dumps(dict(found.facts))


def fails(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    """The one line; nothing is written."""
    before = {path: path.read_bytes() for path in Path().iterdir()}
    assert exports(monkeypatch, *arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert {path: path.read_bytes() for path in Path().iterdir()} == before
    return err


def test_bad_checkpoints_are_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = checkpoint(tmp_path).read_bytes()
    for count in (0, 5, 500, len(whole) - 9):
        (cut := tmp_path / "cut.safetensors").write_bytes(whole[:count])
        assert "is not a checkpoint of dyncomp" in fails(monkeypatch, capsys, cut)
    (foreign := tmp_path / "foreign.safetensors").write_bytes(b"\x08\0\0\0\0\0\0\0{}      ")
    assert "is not a checkpoint of dyncomp" in fails(monkeypatch, capsys, foreign)
    assert "no such file" in fails(monkeypatch, capsys, "absent.safetensors")
    assert "a folder; give a checkpoint" in fails(monkeypatch, capsys, ".")
    assert "give its file by --include-path" in fails(monkeypatch, capsys, checkpoint(tmp_path, method="of_a_plugin"))
    assert "holds the weights of another network" in fails(monkeypatch, capsys, checkpoint(tmp_path, method="lkam"))


def test_bad_options_are_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    net = checkpoint(tmp_path)
    assert "unknown format 'tflite'" in fails(monkeypatch, capsys, net, "--format", "tflite")
    Path("net.dense.pt2").write_text("mine")
    assert "exists, and nothing is written over" in fails(monkeypatch, capsys, net, "--format", "torch.export")
    assert "there is no folder" in fails(monkeypatch, capsys, net, "--output", "absent/net.onnx")
    assert "ends in .onnx" in fails(monkeypatch, capsys, net, "--output", "net.pt2")


WORDS = {
    "skipnet": "conditional operators, one image at a time",
    "early_exit": "conditional operators, one image at a time",
    "fbs": "gathered kernels, one image at a time",
    "dynconv": "gathered pixels, any batch",
    "condconv": "mixed kernels, any batch",
}


@pytest.mark.parametrize(
    "method",
    [pytest.param(name, marks=[pytest.mark.slow] if name in ("dynconv", "condconv") else []) for name in WORDS],
)
def test_the_routed_form_is_told_by_what_keeps_its_routes(
    method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "net.safetensors"
    save(build(method, "cifar_resnet8", **SHAPE), path)
    assert not exports(monkeypatch, path, "--format", "torch.export", "--routed")
    assert f"net.routed.pt2: the routed form: {WORDS[method]}\n" in capsys.readouterr().out


@pytest.mark.parametrize("form", ["--dense", "--routed"])
@pytest.mark.parametrize("name", FORMATS)
def test_a_narrow_type_is_one_line(
    form: str, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("openvino")
    path = tmp_path / "net.safetensors"
    save(build("skipnet", "cifar_resnet8", **SHAPE).bfloat16(), path)
    message = "the network is in bfloat16, and formats hold float32 or float64; export net.float()"
    assert message in fails(monkeypatch, capsys, path, "--format", name, form)


BROKEN = "raise ImportError('libonnx.so: no such file')"


def test_a_broken_extra_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in FORMATS["openvino"].needs:
        (tmp_path / "broken" / name).mkdir(parents=True)
        (tmp_path / "broken" / name / "__init__.py").write_text(BROKEN)
        for module in [module for module in sys.modules if module.partition(".")[0] == name]:
            monkeypatch.delitem(sys.modules, module)
    monkeypatch.syspath_prepend(str(tmp_path / "broken"))
    for name in ("onnx", "openvino"):
        line = fails(monkeypatch, capsys, checkpoint(tmp_path), "--format", name)
        assert f"format {name} needs onnx, which cannot be imported (ImportError: libonnx.so: no such file)" in line
        assert "pip install 'dyncomp[export]'" in line
    (written := tmp_path / "net.onnx").write_bytes(b"")
    with pytest.raises(
        CannotExport, match=r"format onnx needs .* cannot be imported .*pip install 'dyncomp\[export\]'"
    ):
        load_exported(written)
