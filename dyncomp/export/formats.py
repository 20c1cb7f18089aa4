"""The formats: how a graph is written with what is known of it, and how a file is opened and run again."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import io
import json
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray

from dyncomp.errors import CannotExport, UnknownName
from dyncomp.export.graph import Graph, quiet
from dyncomp.export.text import one_line

Facts = Mapping[str, Any]
Run = Callable[[NDArray[Any]], NDArray[Any]]
"""Images (B, C, H, W) to logits (B, Y), without a check."""

KEY = "dyncomp"
"""where a file keeps its facts, as JSON"""
IMAGES, LOGITS = "images", "logits"


class Format(ABC):
    """One way to write a graph. `needs` are the modules that it is written and run with."""

    name: ClassVar[str]
    suffix: ClassVar[str]
    needs: ClassVar[tuple[str, ...]] = ()

    def check_installed(self) -> None:
        """Raises CannotExport where a module is missing."""
        if missing := [module for module in self.needs if importlib.util.find_spec(module) is None]:
            raise CannotExport(
                f"format {self.name} needs {', '.join(missing)}, which is not installed; pip install 'dyncomp[export]'"
            )

    def check_imports(self) -> None:
        """Raises CannotExport where a module is there and cannot be imported."""
        for module in self.needs:
            try:
                importlib.import_module(module)
            except Exception as error:  # a library that is half installed raises what it likes
                raise self.broken(error, module) from error

    def broken(self, error: Exception, module: str = "") -> CannotExport:
        """What to raise where a module, if it is known which, or one that it needs cannot be imported."""
        what = f"{module or 'a module that it is run by'}, which cannot be imported ({one_line(error)})"
        return CannotExport(
            f"format {self.name} needs {what}; pip install 'dyncomp[export]' anew, with --force-reinstall"
        )

    def files(self, path: Path) -> tuple[Path, ...]:
        """All files that the format writes for `path`."""
        return (path,)

    @abstractmethod
    def write(self, graph: Graph, facts: Facts, path: Path) -> None:
        """Write the files."""

    @abstractmethod
    def open(self, path: Path) -> tuple[Facts, Run]:
        """What a file says of itself, and what runs it on a processor, on as many threads as torch uses.

        Raises KeyError where it does not say it was written here.
        """


class TorchExport(Format):
    """torch's own: an ExportedProgram."""

    name = "torch.export"
    suffix = ".pt2"

    def write(self, graph: Graph, facts: Facts, path: Path) -> None:
        """See `Format.write`."""
        with quiet():
            torch.export.save(graph.program, path, extra_files={KEY: json.dumps(facts)})

    def open(self, path: Path) -> tuple[Facts, Run]:
        """See `Format.open`."""
        found: dict[str, Any] = {KEY: ""}
        with quiet():
            module = torch.export.load(path, extra_files=found).module()
        if not found[KEY]:
            raise KeyError(KEY)

        def run(images: NDArray[Any]) -> NDArray[Any]:
            with torch.no_grad():
                logits: NDArray[Any] = module(torch.from_numpy(images)).numpy()
            return logits

        return json.loads(found[KEY]), run


class Onnx(Format):
    """ONNX, run by onnxruntime."""

    name = "onnx"
    suffix = ".onnx"
    needs = ("onnx", "onnxscript", "onnxruntime")

    def write(self, graph: Graph, facts: Facts, path: Path) -> None:
        """See `Format.write`."""
        with quiet(), contextlib.redirect_stdout(io.StringIO()):
            names: dict[str, Any] = {"input_names": [IMAGES], "output_names": [LOGITS]}
            # onnxscript 0.7 has none
            own: dict[Callable[..., Any], Callable[..., Any]] = {torch.ops.aten.sort.stable: _stable_sort}
            program = torch.onnx.export(
                graph.program, dynamo=True, verbose=False, custom_translation_table=own, **names
            )
            assert program is not None  # no file was named
            program.model.metadata_props[KEY] = json.dumps(facts)
            program.save(path, external_data=False)

    def open(self, path: Path) -> tuple[Facts, Run]:
        """See `Format.open`."""
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        options.log_severity_level = 3  # errors
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        facts = json.loads(session.get_modelmeta().custom_metadata_map[KEY])

        def run(images: NDArray[Any]) -> NDArray[Any]:
            logits: NDArray[Any] = session.run(None, {IMAGES: images})[0]
            return logits

        return facts, run


def _stable_sort(self: Any, stable: bool = True, dim: int = -1, descending: bool = False) -> Any:
    """`aten::sort.stable` as ONNX's TopK, which of equals puts the one of the lower index first."""
    from onnxscript import opset18

    op: Any = opset18  # its types know no symbols
    side = op.Gather(op.Shape(self), op.Constant(value_ints=[dim]), axis=0)  # (1,)
    return op.TopK(self, side, axis=dim, largest=int(descending), sorted=1)


class OpenVino(Format):
    """OpenVINO's, by way of ONNX: a .xml file, and its weights in a .bin file beside it."""

    name = "openvino"
    suffix = ".xml"
    needs = (*Onnx.needs, "openvino")

    def files(self, path: Path) -> tuple[Path, ...]:
        """See `Format.files`."""
        return path, path.with_suffix(".bin")

    def write(self, graph: Graph, facts: Facts, path: Path) -> None:
        """See `Format.write`."""
        import openvino

        with tempfile.TemporaryDirectory() as folder, quiet():
            between = Path(folder) / "between.onnx"
            Onnx().write(graph, facts, between)
            model = openvino.convert_model(between)
            model.set_rt_info(json.dumps(facts), KEY)
            openvino.save_model(model, path, compress_to_fp16=False)

    def open(self, path: Path) -> tuple[Facts, Run]:
        """See `Format.open`."""
        import openvino

        core = openvino.Core()
        model = core.read_model(path)
        if not model.has_rt_info(KEY):
            raise KeyError(KEY)
        facts = json.loads(model.get_rt_info(KEY).astype(str))
        # by itself it calculates in bfloat16 where the processor can
        options = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": torch.get_num_threads()}
        request = core.compile_model(model, "CPU", options).create_infer_request()

        def run(images: NDArray[Any]) -> NDArray[Any]:
            return np.array(request.infer({0: images})[0])

        return facts, run


FORMATS: Mapping[str, Format] = MappingProxyType({form.name: form for form in (TorchExport(), Onnx(), OpenVino())})
"""All formats by name."""


def format_of(name: str) -> Format:
    """The format of that name. Raises UnknownName."""
    if name not in FORMATS:
        raise UnknownName.among("format", name, FORMATS, "`dyncomp export --help` says what each is")
    return FORMATS[name]
