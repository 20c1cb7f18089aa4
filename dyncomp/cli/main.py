"""The two console scripts. Nothing heavy is imported before a command runs, so that --help answers at once."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, TextIO

import typer

from dyncomp.cli.benchmark import benchmark
from dyncomp.cli.compare import compare
from dyncomp.cli.export import export
from dyncomp.cli.others import env, list_, report
from dyncomp.cli.plain import write_plain_signs
from dyncomp.cli.profile import profile
from dyncomp.cli.validate import validate
from dyncomp.errors import DyncompError

INTERRUPTED = 130
PLAIN: Mapping[str, Any] = MappingProxyType(
    {
        "add_completion": False,
        "pretty_exceptions_enable": False,
        "context_settings": {"help_option_names": ["-h", "--help"]},
    }
)
# whatever copy of click this version of typer brings along
UsageError: type[Exception] = typer.BadParameter.__mro__[1]


def benchmark_main() -> None:
    """The console script `benchmark`."""
    app = typer.Typer(**PLAIN)
    app.command()(benchmark)
    _guarded(app, sys.argv[1:])


def dyncomp_main() -> None:
    """The console script `dyncomp`."""
    app = typer.Typer(help="Conditional computation for convolutional networks: tried, measured and decided.", **PLAIN)
    app.command("benchmark")(benchmark)
    app.command("list")(list_)
    app.command("profile")(profile)
    app.command("report")(report)
    app.command("compare")(compare)
    app.command("validate")(validate)
    app.command("export")(export)
    app.command("env")(env)
    _guarded(app, sys.argv[1:] or ["--help"])


def _guarded(app: typer.Typer, arguments: Sequence[str]) -> None:
    """Run and exit: what the user can mend is one line and status 2, an interruption status 130, a warning one line."""
    write_plain_signs()
    with warnings.catch_warnings():
        warnings.showwarning = _warnings_in_one_line()
        try:
            status = app(arguments, standalone_mode=False)
        except (DyncompError, UsageError) as error:
            # a usage error knows its option only when formatted
            text = error.format_message() if isinstance(error, UsageError) else str(error)  # type: ignore[attr-defined]
            print(f"error: {' '.join(text.split())}", file=sys.stderr)
            sys.exit(2)
        except KeyboardInterrupt:
            status = INTERRUPTED
        if status == INTERRUPTED:
            print("interrupted; finished cells are kept, the same command goes on from there", file=sys.stderr)
    sys.exit(status)


def _warnings_in_one_line() -> Callable[..., None]:
    """For `warnings.showwarning`: each warning is one line, and told once."""
    told: set[str] = set()

    def show(
        message: Warning | str,
        category: type[Warning],
        filename: str,
        lineno: int,
        file: TextIO | None = None,
        line: str | None = None,
    ) -> None:
        text = " ".join(str(message).split())
        if text not in told:
            told.add(text)
            print(f"warning: {text}", file=file or sys.stderr)

    return show
