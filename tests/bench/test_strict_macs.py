"""Operators without a known cost: told of, or an error of the cell where that is asked for."""

from __future__ import annotations

from pathlib import Path

import pytest

from dyncomp.bench import Outcome, cell
from dyncomp.bench.events import CellEnded
from dyncomp.bench.strict import unpriced
from tests.jobs import Listening, config, plugin

SPECTRAL = """
    def build(self, new):
        import torch
        from torch import nn

        class Spectrum(nn.Module):
            def forward(self, x):
                return torch.fft.fft2(x).real

        return nn.Sequential(Spectrum(), new())
"""
ERROR = "UnpricedOperators: " + unpriced(["aten._fft_c2c"])

pytestmark = pytest.mark.usefixtures("no_report")


def strictly(folder: Path, strict: bool, job: Listening) -> Outcome:
    loose = plugin(folder / "spectral.py", "spectral", SPECTRAL)
    outcome = job.run(config(folder / "out", "spectral", include_path=loose, strict_macs=strict))
    assert outcome is not None
    return outcome


def statuses(outcome: Outcome) -> dict[str, tuple[str, str | None]]:
    return {record["method"]: (record["status"], record["error"]) for record in outcome.store.cells()}


def test_an_unknown_operator_fails_its_cell_before_it_is_trained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained: list[object] = []
    original = cell.train

    def train(net: object, *rest: object) -> object:
        trained.append(net)
        return original(net, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(cell, "train", train)
    outcome = strictly(tmp_path, True, Listening())
    assert statuses(outcome) == {"static": ("ok", None), "spectral": ("failed", ERROR)}
    assert [str(one.method) for one in outcome.failed] == ["spectral"]
    assert len(trained) == 1  # static
    assert "\n" not in ERROR
    assert "register_flop_formula" in ERROR


def test_without_it_the_operator_is_named_with_its_calls_and_its_time(tmp_path: Path) -> None:
    outcome = strictly(tmp_path, False, Listening())
    assert outcome.failed == ()
    (record,) = [one for one in outcome.store.cells() if one["method"] == "spectral"]
    assert record["uncounted_operators"] == ["aten._fft_c2c"]
    assert record["uncounted_calls"] == {"aten._fft_c2c": 2}  # batches of 256 over 359 images
    assert 0 < record["operators"]["shares"]["unknown"] < 1


def test_a_cell_recorded_before_keeps_its_record_and_fails_the_strict_run(tmp_path: Path) -> None:
    before = statuses(strictly(tmp_path, False, Listening()))
    job = Listening()
    outcome = strictly(tmp_path, True, job)
    assert job.trained == []
    assert [str(one.method) for one in outcome.failed] == ["spectral"]
    ended = [event.record["error"] for event in job.events if isinstance(event, CellEnded)]
    assert ended == [unpriced(["aten._fft_c2c"])]
    assert statuses(outcome) == before
