"""Weights & Biases, and Trackio, which has the same interface: a run for each cell."""

from __future__ import annotations

import os
from importlib import import_module
from typing import Any, ClassVar

from dyncomp.reporters.runs import Reporter, Runs

PROJECT = "dyncomp"
"""where WANDB_PROJECT or TRACKIO_PROJECT names none"""


class Wandb(Reporter):
    """Parameters as the config, curves by step, figures and the sentence behind them; WANDB_MODE=offline works too."""

    requires: ClassVar[str] = "wandb"

    def write(self, runs: Runs) -> str:
        """See `Reporter.write`."""
        library: Any = import_module(self.requires)
        project = os.environ.get(f"{self.requires.upper()}_PROJECT", PROJECT)
        for run in runs.runs:
            config = {**run.parameters, "what came out": run.sentence}
            library.init(project=project, name=run.name, config=config, **self.place(runs))
            for step, figures in enumerate(run.curve):
                library.log(dict(figures), step=step)
            library.log(dict(run.figures), step=len(run.curve))
            library.finish()
        return f"project {project}"

    def place(self, runs: Runs) -> dict[str, str]:
        """Where files go that are kept on this machine."""
        return {"dir": str(runs.folder)}


class Trackio(Wandb):
    """The same by Trackio, in its own database on this machine."""

    requires: ClassVar[str] = "trackio"

    def place(self, runs: Runs) -> dict[str, str]:
        """Trackio keeps its own place."""
        return {}
