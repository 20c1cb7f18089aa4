"""The verb `benchmark`: the main job."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from dyncomp.errors import InvalidValue

Text = str | None


def benchmark(
    methods: Annotated[Text, typer.Option(help="Methods to compare, such as condconv,skipnet(target=0.4); or all.")] = None,
    backbone: Annotated[Text, typer.Option(help="Backbones, such as cifar_resnet14. Default: the data set's own.")] = None,
    dataset: Annotated[Text, typer.Option(help="Data sets. Default: digits.")] = None,
    budget: Annotated[Text, typer.Option(help="quick (default), standard, or a number of epochs.")] = None,
    seeds: Annotated[Text, typer.Option("--seeds", "--seed", help="Seeds, such as 0,1,2. Default: 0.")] = None,
    batch_sizes: Annotated[
        Text, typer.Option("--batch-sizes", "--batch-size", help="Batch sizes to time. Default: 1,64.")
    ] = None,
    device: Annotated[Text, typer.Option(help="cpu, cuda, or auto (default).")] = None,
    data_dir: Annotated[Path | None, typer.Option(help="Where the data sets lie.")] = None,
    output: Annotated[Path | None, typer.Option(help="Output folder. Default: reports/<data set>-<backbone>.")] = None,
    config: Annotated[Path | None, typer.Option(help="TOML file with these options; the command line goes before it.")] = None,
    include_path: Annotated[
        list[Path] | None, typer.Option(help="Loose plugin file, or a folder of them. May be repeated.")
    ] = None,
    force: Annotated[bool, typer.Option(help="Run finished cells again.")] = False,
    dry_run: Annotated[bool, typer.Option(help="Say what would be run, run nothing.")] = False,
) -> None:
    """Train and measure methods of conditional computation against the plain backbone, and write a report."""
    given: dict[str, Any] = {
        "methods": methods,
        "backbone": backbone,
        "dataset": dataset,
        "budget": budget,
        "seeds": _numbers("seeds", seeds),
        "batch_sizes": _numbers("batch-sizes", batch_sizes),
        "device": device,
        "data_dir": None if data_dir is None else str(data_dir),
        "output": None if output is None else str(output),
        "include_path": tuple(map(str, include_path)) if include_path else None,
        "force": force or None,
        "dry_run": dry_run or None,
    }
    raise typer.Exit(_run({key: value for key, value in given.items() if value is not None}, config))


def _numbers(name: str, text: str | None) -> tuple[int, ...] | None:
    """`1,8,64` as whole numbers."""
    if text is None:
        return None
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise InvalidValue(f"--{name} {text!r}: give whole numbers with commas between them, such as 1,8,64") from None


def _run(given: dict[str, Any], config_file: Path | None) -> int:
    from dyncomp.cli.early import check_early

    check_early(given)
    from dyncomp.bench import Config, run  # torch is imported here, after names were checked
    from dyncomp.bench.config import read_config
    from dyncomp.cli.progress import watching
    from dyncomp.cli.result import show_result

    config = Config(**({} if config_file is None else read_config(config_file)) | given)
    with watching() as tell:
        store = run(config, tell)
    return 0 if store is None else show_result(store)
