"""Output where not every sign can be written."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from pathlib import Path

import pytest

from dyncomp.cli.plain import HANDLER, write_plain_signs

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize(
    ("text", "encoding", "written"),
    [
        ("93.0 ± 0.4", "ascii", "93.0 +/- 0.4"),
        ("93.0 ± 0.4", "utf-8", "93.0 ± 0.4"),
        ("a … b → c", "latin-1", "a ... b -> c"),
        ("───", "cp1252", "---"),
        ("Müller ☂", "ascii", "Muller ?"),
    ],
)
def test_signs_that_an_output_lacks_are_plain(
    text: str, encoding: str, written: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    stream = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    monkeypatch.setattr(sys, "stdout", stream)
    write_plain_signs()
    assert stream.errors == HANDLER
    print(text, end="", flush=True)
    assert stream.buffer.getvalue().decode(encoding) == written  # type: ignore[attr-defined]


def test_a_command_under_ascii_ends_well() -> None:
    code = "from dyncomp.cli import dyncomp_main; import sys; sys.argv = ['x', 'list']; dyncomp_main()"
    environment = {**os.environ, "PYTHONIOENCODING": "ascii", "MPLBACKEND": "module://matplotlib_inline.backend_inline"}
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    assert b"skipnet" in done.stdout
