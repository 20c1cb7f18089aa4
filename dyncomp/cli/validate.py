"""The verb `validate`: a check list for who writes a method."""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from dyncomp.conformance import CheckList

WIDTH = 100


def validate(
    target: Annotated[
        str,
        typer.Argument(
            metavar="TARGET", help="A method's name or spec, a Python file, or an entry point (package.module:Class)."
        ),
    ],
    backbone: Annotated[
        str, typer.Option(help="Backbone to try it on. Default: the smallest that the method attaches to.")
    ] = "",
    include_path: Annotated[
        list[Path] | None, typer.Option(help="Loose plugin file, or a folder of them. May be repeated.")
    ] = None,
) -> None:
    """Check that a method keeps what every method promises; say what fails, and how to mend it."""
    from dyncomp.cli.target import methods_of
    from dyncomp.registry import BACKBONES
    from dyncomp.registry import include_path as include

    for path in include_path or ():
        include(path)
    if backbone:
        BACKBONES.check(backbone)
    specs = methods_of(target)
    from dyncomp.conformance import validate_all  # torch is imported here, after the names were checked

    failed = checked = 0
    for found in validate_all(specs, backbone, begin=_begin):
        typer.echo("\n".join(in_words(found)))
        failed, checked = failed + len(found.failed), checked + len(found.results)
    typer.echo(f"{failed} of {checked} checks failed" if failed else f"all {checked} checks hold")
    raise typer.Exit(1 if failed else 0)


def _begin(spec: str) -> None:
    """Tell who waits at a terminal; the list itself comes when it is whole."""
    if sys.stderr.isatty():
        typer.echo(f"checking {spec} ...", err=True)


def in_words(found: CheckList) -> Iterator[str]:
    """The lines of a check list: a mark and a promise for each check, under a failed one what failed and a hint."""
    yield f"{found.spec} on {found.backbone}" if found.backbone else found.spec
    passed, failed = _marks()
    said: dict[str, str] = {}  # messages, each with the check that has said it first
    for result in found.results:
        name = "" if result.passed else f" [{result.check}]"
        yield _wrapped(f"  {passed if result.passed else failed} ", result.promise + name)
        if result.passed:
            continue
        if result.message in said:
            yield _wrapped("      failed: ", f"as under {said[result.message]}; mend that first")
            continue
        said[result.message] = result.check
        yield _wrapped("      failed: ", result.message)
        yield _wrapped("      mend:   ", result.hint)
    yield ""


def _wrapped(head: str, text: str) -> str:
    indent = " " * len(head)
    return textwrap.fill(
        text, WIDTH, initial_indent=head, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False
    )


def _marks() -> tuple[str, str]:
    """A tick and a cross, in words where the output's encoding has none."""
    try:
        "✓✗".encode(sys.stdout.encoding or "ascii")
    except UnicodeEncodeError:
        return "ok    ", "FAILED"
    return "✓", "✗"
