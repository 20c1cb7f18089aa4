"""The installed scripts: they end at once, with everything written and the command's status."""

from __future__ import annotations

import subprocess
import sys

import pytest

from dyncomp.cli import scripts

PROGRAM = """
import atexit, sys
from dyncomp.cli import scripts
atexit.register(lambda: print("registered"))
def main():
    print("told")
    {end}
scripts._run(main)
"""


@pytest.mark.parametrize(
    ("end", "status", "error"),
    [
        ("pass", 0, ""),
        ("sys.exit()", 0, ""),
        ("sys.exit(0)", 0, ""),
        ("sys.exit(2)", 2, ""),
        ("sys.exit('wrong')", 1, "wrong"),
        ("raise RuntimeError('a fault')", 1, "RuntimeError: a fault"),
    ],
)
def test_the_end_is_as_python_has_it(end: str, status: int, error: str) -> None:
    command = [sys.executable, "-c", PROGRAM.format(end=end)]
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    assert found.returncode == status
    assert found.stdout.split() == ["told", "registered"]
    assert found.stderr.strip().endswith(error)


def test_scripts_are_the_commands(monkeypatch: pytest.MonkeyPatch) -> None:
    called: list[str] = []
    monkeypatch.setattr(scripts, "_run", lambda main: called.append(main.__name__))
    scripts.benchmark()
    scripts.dyncomp()
    assert called == ["benchmark_main", "dyncomp_main"]
