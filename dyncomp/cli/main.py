"""The two console scripts. Nothing heavy is imported before a command runs, so that --help answers at once."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable
from typing import Any, TextIO

import typer

from dyncomp.cli.benchmark import benchmark
from dyncomp.cli.others import env, list_, report
from dyncomp.errors import DyncompError

PLAIN: dict[str, Any] = {
    "add_completion": False,
    "pretty_exceptions_enable": False,
    "context_settings": {"help_option_names": ["-h", "--help"]},
}


def benchmark_main() -> None:
    """The console script `benchmark`."""
    app = typer.Typer(**PLAIN)
    app.command()(benchmark)
    _guarded(app)


def dyncomp_main() -> None:
    """The console script `dyncomp`."""
    app = typer.Typer(no_args_is_help=True, help="Conditional computation for convolutional networks.", **PLAIN)
    app.command("benchmark")(benchmark)
    app.command("list")(list_)
    app.command("report")(report)
    app.command("env")(env)
    _guarded(app)


def _guarded(app: Callable[[], Any]) -> None:
    """Run; an error that the user can mend is one line and exit status 2, an interruption is status 130."""
    warnings.showwarning = _one_line
    try:
        app()
    except DyncompError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("interrupted; finished cells are kept, the same command goes on from there", file=sys.stderr)
        sys.exit(130)


def _one_line(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    print(f"warning: {message}", file=file or sys.stderr)
