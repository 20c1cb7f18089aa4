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


def report(folder: Annotated[Path, typer.Argument(help="Output folder of a benchmark.")]) -> None:
    """Write tables, plots and the page again, from an output folder's records."""
    from dyncomp.report import write_report
    from dyncomp.store import Store

    for path in write_report(Store.open(folder)):
        typer.echo(str(path))


def env() -> None:
    """Show versions, processor and devices: what a record says of the machine."""
    import torch

    from dyncomp.profile import environment

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    for name, value in environment(device).items():
        typer.echo(f"{name}: {value}")
