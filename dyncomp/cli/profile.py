"""The verb `profile`: one network alone, a run's checkpoint or any module."""

from __future__ import annotations

import os
import re
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from dyncomp.bench import Profile

_SHAPE = re.compile(r"([1-9][0-9]*)x([1-9][0-9]*)x([1-9][0-9]*)", re.ASCII | re.IGNORECASE)


Checkpoint = Annotated[
    Path | None, typer.Argument(metavar="[CHECKPOINT]", help="A run's checkpoint: checkpoints/KEY.safetensors.")
]
Model = Annotated[str, typer.Option(help="Any torch module or what makes one, in its place: my.module:make_model.")]
Input = Annotated[str, typer.Option("--input", help="What --model is given: channels x height x width.")]
Sizes = Annotated[
    str, typer.Option("--batch-sizes", "--batch-size", help="Batch sizes to time; --model's memory at the largest.")
]
Device = Annotated[str, typer.Option(help="cpu, cuda or auto. Default: the run's; auto for --model.")]
Data = Annotated[Path | None, typer.Option(help="Where the data sets lie.")]
Plugins = Annotated[list[Path] | None, typer.Option(help="Loose plugin file, or a folder of them. May be repeated.")]
Fast = Annotated[bool, typer.Option(help="--no-fast: torch's operators alone, no generated code or tuned forms.")]
Json = Annotated[Path | None, typer.Option(help="Write all figures into this file too.")]


def profile(
    checkpoint: Checkpoint = None,
    model: Model = "",
    input_: Input = "",
    batch_sizes: Sizes = "1,64",
    device: Device = "",
    data_dir: Data = None,
    include_path: Plugins = None,
    fast: Fast = True,
    json: Json = None,
) -> None:
    """Measure one network: MACs, operators without a known cost, latency, memory; of a checkpoint also its accuracy."""
    from dyncomp.bench import fit_option
    from dyncomp.errors import InvalidValue
    from dyncomp.registry import include_path as include

    if (checkpoint is None) == (not model):
        raise InvalidValue("give either a checkpoint of a run or --model my.module:make_model")
    if checkpoint is not None and input_:
        raise InvalidValue(f"input={input_!r}: a checkpoint knows what its network is given; leave --input out")
    sizes = fit_option("batch_sizes", batch_sizes)
    for path in include_path or ():
        include(path)
    from dyncomp.fast import disabled

    with nullcontext() if fast else disabled():
        if checkpoint is None:
            found = _of_model(model, input_, sizes, device)
        else:
            if not checkpoint.is_file():
                raise InvalidValue(
                    f"{checkpoint}: no such file; give a checkpoint of a run (OUTPUT/checkpoints/KEY.safetensors)"
                )
            from dyncomp.bench import profile_checkpoint

            found = profile_checkpoint(checkpoint, sizes, device, data_dir)
    typer.echo(str(found))
    if json is not None:
        from dyncomp.store import write_atomically
        from dyncomp.store.files import json_bytes

        write_atomically({json: json_bytes(found.as_dict())})
    raise typer.Exit(1 if found.errors else 0)


def _of_model(model: str, given: str, sizes: tuple[int, ...], device: str) -> Profile:
    from dyncomp.errors import InvalidValue

    shape = _SHAPE.fullmatch(given.strip())
    if shape is None:
        raise InvalidValue(f"input={given!r}: give channels x height x width of an image, such as --input 3x224x224")
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())  # as `python -m` does: a console script knows its own folder only
    from dyncomp.bench import profile_model  # torch is imported here, after the options were checked

    return profile_model(model, (int(shape[1]), int(shape[2]), int(shape[3])), sizes, device or "auto")
