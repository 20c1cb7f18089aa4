"""MLflow: a run for each cell, in the tracking store that MLflow's own environment variables name."""

from __future__ import annotations

import os
from typing import ClassVar

from dyncomp.reporters.runs import Reporter, Runs

EXPERIMENT = "dyncomp"
"""where MLFLOW_EXPERIMENT_NAME names none"""


class MLflow(Reporter):
    """Parameters, curves and figures of each cell; the table and the page as artifacts of a run of their own."""

    requires: ClassVar[str] = "mlflow"

    def write(self, runs: Runs) -> str:
        """See `Reporter.write`."""
        import mlflow

        mlflow.set_experiment(os.environ.get("MLFLOW_EXPERIMENT_NAME", EXPERIMENT))
        for run in runs.runs:
            with mlflow.start_run(run_name=run.name):
                mlflow.log_params(dict(run.parameters))
                for step, figures in enumerate(run.curve):
                    mlflow.log_metrics(dict(figures), step=step)
                mlflow.log_metrics(dict(run.figures))
                mlflow.set_tag("what came out", run.sentence)
        with mlflow.start_run(run_name=f"report of {runs.folder.name}"):
            for file in runs.files:
                mlflow.log_artifact(str(file))
        return f"mlflow ui --backend-store-uri {mlflow.get_tracking_uri()}"
