"""The verb `benchmark`: the main job."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

Text = str | None
Flag = bool | None


def benchmark(
    methods: Annotated[
        Text, typer.Option(help="Methods, such as condconv,skipnet(target=0.4); all: those that fit.")
    ] = None,
    backbone: Annotated[Text, typer.Option(help="Backbones, such as cifar_resnet14. Default: the data set's.")] = None,
    dataset: Annotated[Text, typer.Option(help="Data sets. Default: digits.")] = None,
    budget: Annotated[Text, typer.Option(help="quick (default), standard, or a number of epochs.")] = None,
    seeds: Annotated[Text, typer.Option("--seeds", "--seed", help="Seeds, such as 0,1,2. Default: 0.")] = None,
    batch_sizes: Annotated[
        Text, typer.Option("--batch-sizes", "--batch-size", help="Batch sizes to time. Default: 1,64.")
    ] = None,
    device: Annotated[Text, typer.Option(help="cpu, cuda, or auto (default).")] = None,
    data_dir: Annotated[Path | None, typer.Option(help="Where the data sets lie.")] = None,
    output: Annotated[Path | None, typer.Option(help="Output folder. Default: reports/<data set>-<backbone>.")] = None,
    init: Annotated[
        Path | None, typer.Option(help="Checkpoint of the plain backbone (.safetensors) that training begins from.")
    ] = None,
    controls: Annotated[
        Text,
        typer.Option(help="auto (default): fixed and random decisions for gated methods, and static nets; or none."),
    ] = None,
    config: Annotated[
        Path | None, typer.Option(help="TOML file with these options; the command line goes before it.")
    ] = None,
    include_path: Annotated[
        list[Path] | None, typer.Option(help="Loose plugin file, or a folder of them. May be repeated.")
    ] = None,
    jobs: Annotated[
        Text, typer.Option(help="Cells trained at a time. Default: one per core, 4 at most; on a GPU one.")
    ] = None,
    latency_width: Annotated[
        float | None,
        typer.Option(help="Time until all ratios' 95 % intervals are this narrow, in percent. Default: 3."),
    ] = None,
    latency_seconds: Annotated[
        float | None, typer.Option(help="Timing of one network and batch size; 4 x as long while ratios are unknown.")
    ] = None,
    compile: Annotated[Flag, typer.Option(help="Time torch.compile's form of every network too.")] = None,
    fast: Annotated[
        Flag, typer.Option(help="--no-fast: torch's operators alone, no generated code or tuned forms.")
    ] = None,
    force: Annotated[Flag, typer.Option(help="Run finished cells again.")] = None,
    strict_macs: Annotated[Flag, typer.Option(help="An operator without a known cost fails its cell.")] = None,
    dry_run: Annotated[Flag, typer.Option(help="Say what would be run, run nothing.")] = None,
    log: Annotated[
        Text, typer.Option(help="Send the results to trackers at the end: tensorboard, mlflow, wandb, trackio.")
    ] = None,
) -> None:
    """Train and measure methods of conditional computation against the plain backbone, and write a report."""
    given = {
        "methods": methods,
        "backbone": backbone,
        "dataset": dataset,
        "budget": budget,
        "seeds": seeds,
        "batch_sizes": batch_sizes,
        "device": device,
        "data_dir": data_dir,
        "output": output,
        "init": init,
        "controls": controls,
        "include_path": include_path or None,
        "jobs": jobs,
        "latency_width": latency_width,
        "latency_seconds": latency_seconds,
        "compile": compile,
        "fast": fast,
        "force": force,
        "strict_macs": strict_macs,
        "dry_run": dry_run,
        "log": log,
    }
    from dyncomp._processes import begin_early
    from dyncomp.bench import Config, check_names, read_config

    in_file: dict[str, Any] = read_config(config) if config else {}
    options = Config(**in_file | {key: value for key, value in given.items() if value is not None})
    check_names(options)
    if not options.dry_run:
        begin_early()
    from dyncomp.bench import run  # torch is imported here, after the options were checked
    from dyncomp.cli.progress import watching
    from dyncomp.cli.result import show_result

    with watching() as tell:
        outcome = run(options, tell)
    if outcome is not None:
        show_result(outcome.store)
    raise typer.Exit(1 if outcome is not None and outcome.failed else 0)
