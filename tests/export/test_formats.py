"""What is written in each format answers as the network does; what cannot be written is one line, and no file."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks.divided import images_for
from dyncomp.core import Net
from dyncomp.errors import CannotExport, InvalidValue, OutputError, UnknownName
from dyncomp.export import Exported, export_network, formats, load_exported, write
from dyncomp.export.formats import FORMATS
from dyncomp.ops import channel_subsets as narrow
from tests.export.test_graph_forms import ROUTED, SPECS, net_of

MISSING = [name for name, form in FORMATS.items() if any(importlib.util.find_spec(m) is None for m in form.needs)]
CASES = [
    *((spec, name, False) for spec in SPECS for name in FORMATS),
    *((spec, name, True) for spec in ROUTED for name in FORMATS if (spec, name) != ("lkam", "openvino")),
]
QUICK = {("skipnet", "onnx", True), ("early_exit", "torch.export", True), ("condconv", "torch.export", False)}
QUICK |= {("frame_gate", "openvino", True), ("lkam", "onnx", True), ("dynconv", "onnx", False)}


def case(spec: str, name: str, routed: bool) -> object:
    marks = [] if (spec, name, routed) in QUICK else [pytest.mark.slow]
    if name in MISSING:
        marks.append(pytest.mark.skip(reason=f"the extra `export` is not installed, which {name} needs"))
    return pytest.param(spec, name, routed, marks=marks, id=f"{spec}-{name}-{'routed' if routed else 'dense'}")


def exported(net: Net, folder: Path, name: str = "torch.export", routed: bool = False) -> Exported:
    return export_network(net, folder / f"net{FORMATS[name].suffix}", name, routed, {"method": "a method"})


@pytest.mark.parametrize(("spec", "name", "routed"), [case(*found) for found in CASES])
def test_a_file_answers_as_the_network_does(spec: str, name: str, routed: bool, tmp_path: Path) -> None:
    net = net_of(spec)
    x = images_for(net, 40, seed=1)
    with torch.no_grad():
        wanted = net(x).logits.numpy()
    found = exported(net, tmp_path, name, routed)
    assert np.abs(found(x.numpy()) - wanted).max() < 1e-4
    assert np.abs(found(x[:1].numpy()) - wanted[:1]).max() < 1e-4
    assert found(x[:0].numpy()).shape == (0, 5)
    assert found.facts["form"] == ("routed" if routed else "dense")
    assert found.facts["one_image"] == (routed and any(op.takes_one_image for op in net.sites.values()))
    assert found.facts["method"] == "a method"
    assert {file.suffix for file in tmp_path.iterdir()} == {f.suffix for f in FORMATS[name].files(Path("net.xml"))} or (
        len(list(tmp_path.iterdir())) == 1
    )


@pytest.mark.skipif("openvino" in MISSING, reason="the extra `export` is not installed")
def test_what_an_engine_cannot_run_is_one_line_and_no_file(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """OpenVINO has no convolution whose kernels differ in size from image to image."""
    with pytest.raises(CannotExport, match=r"openvino cannot run the routed form .*export it --dense, or in another"):
        exported(net_of("lkam"), tmp_path, "openvino", routed=True)
    assert not list(tmp_path.iterdir())
    assert capfd.readouterr() == ("", "")


def test_what_torch_cannot_export_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """The exporter prints its whole graph when it fails at a size that images decide."""
    monkeypatch.setattr(narrow, "_are_all", lambda channels, count: len(channels) == count)
    with pytest.raises(CannotExport, match=r"torch.export cannot take the routed form \(GuardOnDataDependent"):
        exported(net_of("lkam"), tmp_path, routed=True)
    assert capfd.readouterr() == ("", "")


@pytest.fixture(scope="module")
def static() -> Net:
    return net_of("static")


def test_images_that_do_not_fit_are_one_line(static: Net, tmp_path: Path) -> None:
    found = exported(static, tmp_path)
    fitting = np.zeros((2, 1, 16, 16), np.float32)
    for wrong in (fitting[:, [0, 0, 0]], fitting.astype(np.float64), fitting[0], (fitting * 255).astype(np.uint8)):
        with pytest.raises(InvalidValue, match=r"give \(images, 1, 16, 16\) of float32"):
            found(wrong)


def test_what_is_no_array_is_one_line_and_paths_may_be_text(static: Net, tmp_path: Path) -> None:
    given = export_network(static, str(tmp_path / "text.pt2"), "torch.export")
    assert given.facts["routes"] == []
    found = load_exported(str(tmp_path / "text.pt2"))
    for wrong in (None, [[1.0]], torch.zeros(2, 1, 16, 16), "images", 3):
        with pytest.raises(
            InvalidValue, match=r"images of type \w+; give a NumPy array \(images, 1, 16, 16\) of float32"
        ):
            found(wrong)  # type: ignore[arg-type]
    with pytest.raises(InvalidValue, match=r"gone\.pt2: no such file"):
        load_exported(str(tmp_path / "gone.pt2"))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("routed", [False, True])
def test_a_narrow_type_is_told_before_any_work(dtype: torch.dtype, name: str, routed: bool, tmp_path: Path) -> None:
    if name in MISSING:
        pytest.skip("the extra `export` is not installed")
    net = net_of("skipnet").to(dtype)
    with pytest.raises(CannotExport, match=rf"the network is in {str(dtype)[6:]}, .*; export net\.float\(\)"):
        exported(net, tmp_path, name, routed)
    assert not list(tmp_path.iterdir())


def test_nothing_is_written_over(static: Net, tmp_path: Path) -> None:
    (tmp_path / "net.pt2").write_text("mine")
    with pytest.raises(OutputError, match=r"net\.pt2 exists, and nothing is written over"):
        exported(static, tmp_path)
    assert [(file.name, file.read_text()) for file in tmp_path.iterdir()] == [("net.pt2", "mine")]


def test_weights_beside_a_file_are_not_written_over(static: Net, tmp_path: Path) -> None:
    (tmp_path / "net.bin").write_text("mine")
    with pytest.raises(OutputError, match=r"net\.bin exists"):
        exported(static, tmp_path, "openvino")


def test_a_file_that_comes_in_between_is_not_written_over(
    static: Net, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def between(*given: object) -> None:
        (tmp_path / "net.pt2").write_text("mine")

    monkeypatch.setattr(write, "_compare", between)
    with pytest.raises(OutputError, match=r"net\.pt2 cannot be written"):
        exported(static, tmp_path)
    assert [(file.name, file.read_text()) for file in tmp_path.iterdir()] == [("net.pt2", "mine")]


def test_wrong_places_and_names_are_one_line(static: Net, tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="there is no folder"):
        exported(static, tmp_path / "absent")
    with pytest.raises(OutputError, match=r"ends in \.pt2"):
        export_network(static, tmp_path / "net.onnx", "torch.export")
    with pytest.raises(UnknownName, match="did you mean onnx"):
        export_network(static, tmp_path / "net.onnx", "onx")


def test_a_format_that_is_not_installed_names_the_extra(
    static: Net, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(formats.Onnx, "needs", ("onnx_of_nobody",))
    with pytest.raises(CannotExport, match=r"onnx_of_nobody, which is not installed; pip install 'dyncomp\[export\]'"):
        exported(static, tmp_path, "onnx")
    assert not list(tmp_path.iterdir())


def test_what_answers_otherwise_is_not_written(static: Net, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(write, "TOLERANCE", -1.0)
    with pytest.raises(CannotExport, match="answers otherwise"):
        exported(static, tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["net.pt2", "net.onnx", "net.xml", "net.safetensors", "absent.pt2"])
def test_a_file_that_is_none_of_ours_is_one_line(name: str, tmp_path: Path) -> None:
    if {".onnx": "onnx", ".xml": "openvino"}.get(Path(name).suffix) in MISSING:
        pytest.skip("the extra `export` is not installed")
    if not name.startswith("absent"):
        (tmp_path / name).write_text("nothing")
    with pytest.raises(InvalidValue, match="give a file that `dyncomp export` wrote") as caught:
        load_exported(tmp_path / name)
    assert "\n" not in str(caught.value)
