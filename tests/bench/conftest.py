"""Jobs in a test take no time for timing and for memory."""

from __future__ import annotations

import pytest

from dyncomp.bench import resources, runner, timeshares, timing


@pytest.fixture(autouse=True)
def _no_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resources, "memory_figures", lambda net, cell, checkpoint: {})
    monkeypatch.setattr(timing, "SECONDS", 0.0)
    monkeypatch.setattr(timing, "SECONDS_STANDARD", 0.0)
    monkeypatch.setattr(timeshares, "SECONDS", 0.0)
    monkeypatch.setattr(timeshares, "BATCHES", {4: 2})
    monkeypatch.setattr(timeshares, "AUDITED", 4)


@pytest.fixture
def no_report(monkeypatch: pytest.MonkeyPatch) -> None:
    """Plots take seconds, and are another test's matter."""
    monkeypatch.setattr("dyncomp.report.write_report", lambda store: [])


@pytest.fixture
def no_timing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Networks are trained and measured, not timed: for what is another test's matter."""
    monkeypatch.setattr(runner, "time_group", lambda *given: [])
    monkeypatch.setattr(runner, "add_resources", lambda *given: None)
