"""A network whose answers cannot be measured: its cell says what is wrong, the others finish, the exit status is 1."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from dyncomp.cli import benchmark_main
from tests.jobs import TINY, Listening, config, plugin

pytestmark = pytest.mark.usefixtures("no_report")

BODY = """
def build(self, new):
    import torch
    from torch import nn

    class Spoilt(nn.Module):
        def __init__(self, model):
            super().__init__()
            self.model = model

        def forward(self, x):
            y = self.model(x)
            {spoil}

    backbone = new()
    return Spoilt(backbone.model)
"""
SPOILT: dict[str, tuple[str, str]] = {
    "shape": ("return y[:, :9]", "BadAnswer: before the training: logits of shape (2, 9), not (2, 10); "),
    "nan": (
        "return y if self.training else torch.where(x.mean((1, 2, 3))[:, None] > 0, y, torch.nan)",
        "images get NaN or infinite values; ",
    ),
    "chance": (
        "return y if self.training else y + torch.rand_like(y)",
        "BadAnswer: test images: 64 of 64 images get another answer when asked again; ",
    ),
    "batch": (
        "if not self.training and len(x) > 100: raise ValueError('too many')\n            return y",
        "BadAnswer: the network fails on images 0 to 255: ValueError: too many; mend the network for such a batch",
    ),
    "memory": (
        "if not self.training and len(x) > 100: raise MemoryError('no room')\n            return y",
        "BadAnswer: the network fails on images 0 to 255: MemoryError: no room; give smaller batches",
    ),
}


@pytest.mark.parametrize("how", SPOILT)
def test_each_is_named_and_the_others_finish(how: str, tmp_path: Path) -> None:
    spoil, words = SPOILT[how]
    loose = plugin(tmp_path / "spoilt.py", f"spoilt_{how}", BODY.format(spoil=spoil))
    outcome = Listening().run(config(tmp_path / "out", f"spoilt_{how}", include_path=loose))
    assert outcome is not None
    assert [str(cell.method) for cell in outcome.failed] == [f"spoilt_{how}"]
    records = {record["method"]: record for record in outcome.store.cells()}
    assert words in records[f"spoilt_{how}"]["error"]
    assert "\n" not in records[f"spoilt_{how}"]["error"]
    assert records["static"]["status"] == "ok"


def test_the_exit_status_is_1(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    loose = plugin(tmp_path / "spoilt.py", "spoilt_status", BODY.format(spoil=SPOILT["shape"][0]))
    options = [text for name, value in TINY.items() for text in (f"--{name.replace('_', '-')}", value)]
    asked = ["--methods", "spoilt_status", "--include-path", str(loose), "--output", str(tmp_path / "out"), *options]
    monkeypatch.setattr(sys, "argv", ["benchmark", *asked])
    with pytest.raises(SystemExit) as caught:
        benchmark_main()
    assert caught.value.code == 1
    assert "failed: BadAnswer: before the training: logits of shape (2, 9)" in capsys.readouterr().err
