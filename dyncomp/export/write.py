"""From a network to a file that was tried: what is written answers as the network does, or is not written."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from dyncomp._version import __version__
from dyncomp.core import Net
from dyncomp.core.graphs import GraphForm
from dyncomp.core.modes import evaluating
from dyncomp.errors import CannotExport, OutputError
from dyncomp.export.formats import Format, format_of
from dyncomp.export.graph import Graph, graph_of
from dyncomp.export.run import Exported, load_exported
from dyncomp.export.text import one_line

TOLERANCE = 1e-4
"""by which logits may differ from the network's, as a share of the largest, or as they are where all are below 1"""
_IMAGES = 8
_NOTHING: Mapping[str, Any] = MappingProxyType({})


def export_network(
    net: Net, path: str | Path, format: str, routed: bool = False, about: Mapping[str, Any] = _NOTHING
) -> Exported:
    """Write the network to `path` in a format of `FORMATS`, whole or not at all; gives what was written, ready to run.

    The dense form is right for every image and batch, and saves nothing. With `routed`, what an image does not use is
    not run: experts and pixels for any batch, everything else for one image at a time. `about` is JSON that is kept in
    the file beside `form`, `one_image`, `routes`, `image_shape`, `classes`, `dtype`, `dyncomp`. What is written was
    compared with the network on a few random images. Raises OutputError where a file exists or the folder does not,
    UnknownName for another format, and CannotExport where the format is not installed or cannot hold the network in
    that form.
    """
    kind, path = format_of(format), Path(path)
    free_path(path, kind)
    kind.check_installed()
    kind.check_imports()
    graph = graph_of(net, routed)
    assert net.costs is not None  # else there were no graph
    draw, like = torch.Generator().manual_seed(0), next(net.parameters())
    images = torch.randn(_IMAGES, *net.costs.image_shape, generator=draw, dtype=torch.float64).to(like)  # (B, C, H, W)
    with evaluating(net):
        wanted = net(images, sparse=True, record=False).logits.cpu().numpy()
    facts = {
        **about,
        "form": graph.form,
        "one_image": graph.one_image,
        "routes": list(graph.routes),
        "image_shape": list(net.costs.image_shape),
        "classes": wanted.shape[1],
        "dtype": str(wanted.dtype),
        "dyncomp": __version__,
    }
    try:
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.stem}-") as folder:
            unfinished = Path(folder) / path.name
            _write(kind, graph, facts, unfinished)
            _compare(_answers_of(unfinished, images, kind, graph.form), wanted, kind)
            for source, target in zip(kind.files(unfinished), kind.files(path), strict=True):
                _put(source, target)
    except OSError as error:
        raise OutputError(f"{path} cannot be written ({one_line(error)}); give another --output") from error
    return load_exported(path)


def _write(kind: Format, graph: Graph, facts: Mapping[str, Any], path: Path) -> None:
    try:
        kind.write(graph, facts, path)
    except OSError:
        raise
    except Exception as error:  # each library has errors of its own for what it cannot hold
        raise CannotExport(f"{kind.name} cannot hold the {graph.form} form ({one_line(error)})") from error


def _answers_of(path: Path, images: torch.Tensor, kind: Format, form: GraphForm) -> NDArray[Any]:
    """What the engine makes of images (B, C, H, W): logits (B, Y)."""
    try:
        return load_exported(path)(images.cpu().numpy())
    except Exception as error:  # each has errors of its own for what it can read and cannot run
        other = "--dense, or in another format" if form == "routed" else "in another format"
        raise CannotExport(f"{kind.name} cannot run the {form} form ({one_line(error)}); export it {other}") from error


def _put(source: Path, target: Path) -> None:
    """Move a file to where there is none. Raises FileExistsError where one came in between."""
    try:
        os.link(source, target)  # unlike a rename, never over another file
    except FileExistsError:
        raise
    except OSError:  # a file system without links
        with target.open("xb") as file:
            file.write(source.read_bytes())


def free_path(path: Path, kind: Format) -> None:
    """Raises OutputError for a path that a file of the format cannot be written to without loss."""
    if path.suffix != kind.suffix:
        raise OutputError(f"{path}: a file of format {kind.name} ends in {kind.suffix}; give another --output")
    if not path.parent.is_dir():
        raise OutputError(f"{path}: there is no folder {path.parent}; make it, or give another --output")
    for file in kind.files(path):
        if file.exists() or file.is_symlink():
            raise OutputError(f"{file} exists, and nothing is written over; remove it, or give another --output")


def _compare(found: NDArray[Any], wanted: NDArray[Any], kind: Format) -> None:
    by = float(np.abs(found - wanted).max()) / max(1.0, float(np.abs(wanted).max()))
    if not by <= TOLERANCE:  # also where it is no number
        raise CannotExport(
            f"written as {kind.name}, the network answers otherwise (by {by:.2g}, allowed are {TOLERANCE:g}); "
            "nothing was written; try the other form, or another format"
        )
