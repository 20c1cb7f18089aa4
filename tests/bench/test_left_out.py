"""What `all` leaves out is told before the run, and stands in the output folder."""

from __future__ import annotations

from pathlib import Path

import pytest

from dyncomp.bench import jobs
from dyncomp.bench.events import Planned
from dyncomp.store import Store
from tests.jobs import Listening, config

BACKBONE = "mobilenet_v1(width=0.25)"


@pytest.mark.usefixtures("no_report", "no_timing")
@pytest.mark.parametrize("dry_run", [True, False])
def test_left_out_is_told_and_kept(dry_run: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs, "run_cell", lambda *given: {"status": "failed", "error": "not tried"})
    job = Listening()
    job.run(config(tmp_path / "out", "all", backbone=BACKBONE, dry_run=dry_run))
    told = job.events[0]
    assert isinstance(told, Planned)
    assert "skipnet" in {one.method for one in told.plan.left_out}
    if dry_run:
        assert not (tmp_path / "out").exists()
        return
    kept = {one["method"]: one for one in Store.open(tmp_path / "out").config["left_out"]}
    assert set(kept["skipnet"]) == {"method", "backbone", "reason"}
    assert kept["skipnet"]["backbone"] == BACKBONE
    assert kept["skipnet"]["reason"].startswith("mobilenet_v1 has no residual block")
