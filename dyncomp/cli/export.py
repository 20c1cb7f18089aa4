"""The verb `export`: a trained network as a file for another engine."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Checkpoint = Annotated[
    Path, typer.Argument(metavar="CHECKPOINT", help="A run's checkpoint: checkpoints/KEY.safetensors.")
]
Format = Annotated[str, typer.Option(help="torch.export (.pt2), onnx (.onnx) or openvino (.xml and .bin).")]
Routed = Annotated[
    bool,
    typer.Option(
        "--routed/--dense",
        help="Keep routing, so that unused parts do not run; or gates as masks: any batch, nothing saved.",
    ),
]
Output = Annotated[Path | None, typer.Option(help="File to write. Default: KEY.FORM.SUFFIX in this folder.")]
Plugins = Annotated[list[Path] | None, typer.Option(help="Loose plugin file, or a folder of them. May be repeated.")]


def export(
    checkpoint: Checkpoint,
    format: Format = "onnx",
    routed: Routed = False,
    output: Output = None,
    include_path: Plugins = None,
) -> None:
    """Write a trained network as torch.export, ONNX or OpenVINO; it is compared with the network before."""
    from dyncomp.errors import InvalidValue
    from dyncomp.registry import include_path as include

    for path in include_path or ():
        include(path)
    if not checkpoint.is_file():
        raise InvalidValue(
            f"{checkpoint}: {'a folder' if checkpoint.is_dir() else 'no such file'}; give a checkpoint of a run "
            "(OUTPUT/checkpoints/KEY.safetensors)"
        )
    from dyncomp.bench import export_checkpoint  # torch is imported here, after the options were checked

    written, exported = export_checkpoint(checkpoint, format, routed, output)
    facts = exported.facts
    if facts["form"] == "dense":
        said = "the dense form: right for every image and batch; every unit runs, so nothing is saved"
    else:
        images = "one image at a time" if facts["one_image"] else "any batch"
        said = f"the routed form: {' and '.join(facts['routes'])}, {images}"
    typer.echo(f"{written}: {said}")
