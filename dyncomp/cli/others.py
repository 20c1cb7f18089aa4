"""The verbs `list`, `report` and `env`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def list_(
    what: Annotated[str, typer.Argument(help="methods, backbones, datasets; all three by default.")] = "",
    as_json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False,
    include_path: Annotated[list[Path] | None, typer.Option(help="Loose plugin file, or a folder of them.")] = None,
) -> None:
    """Show methods, backbones and data sets: one line, paper, hyperparameters with defaults, origin."""
    from rich.console import Console

    from dyncomp.listing import KINDS, print_listing, render_listing
    from dyncomp.registry import include_path as include

    for path in include_path or ():
        include(path)
    kinds = [what] if what else KINDS
    if as_json:
        typer.echo(render_listing(kinds, as_json=True))
    else:
        print_listing(Console(), kinds)


def report(
    folders: Annotated[list[Path], typer.Argument(help="Output folder of a benchmark, or several of them.")],
    output: Annotated[Path | None, typer.Option(help="New folder for the common report of several.")] = None,
    log: Annotated[str, typer.Option(help="Send the results to trackers: tensorboard, mlflow, wandb, trackio.")] = "",
    results_format: Annotated[
        str, typer.Option(help="Results once more, as timm's CSV or a LaTeX table: timm, latex.")
    ] = "",
) -> None:
    """Write tables, plots and the page again, from an output folder's records; of several, into a new folder."""
    from dyncomp.bench.config import fit_option
    from dyncomp.errors import InvalidValue
    from dyncomp.report import formats_of, write_report, write_results
    from dyncomp.reporters import check_reporters, log_results
    from dyncomp.store import Store, merge

    trackers, formats = fit_option("log", log), formats_of(results_format)
    check_reporters(trackers)
    stores = [Store.open(folder) for folder in folders]
    if output is None and len(stores) > 1:
        raise InvalidValue(f"{len(stores)} folders are given; give --output, a new folder for their common report")
    store, told = (stores[0], list[str]()) if output is None else merge(stores, output)
    for line in told:
        typer.echo(line, err=True)
    for path in (*write_report(store), *write_results(store, formats)):
        typer.echo(str(path))
    for line in log_results(store, trackers):
        typer.echo(line)


def env() -> None:
    """Show versions, processor and devices: what a record says of the machine."""
    import torch

    from dyncomp.profile import environment

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    for name, value in environment(device).items():
        typer.echo(f"{name}: {value}")
