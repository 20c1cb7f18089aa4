"""TensorBoard: event files in the output folder."""

from __future__ import annotations

from typing import ClassVar

from dyncomp.reporters.runs import Reporter, Runs


class TensorBoard(Reporter):
    """Curves as scalars, parameters and figures as hyperparameters and metrics, the sentence as text."""

    requires: ClassVar[str] = "tensorboard"

    def write(self, runs: Runs) -> str:
        """See `Reporter.write`; the files lie in the output folder's `tensorboard`."""
        from torch.utils.tensorboard import SummaryWriter

        place = runs.folder / "tensorboard"
        for run in runs.runs:
            name = "".join(letter if letter.isalnum() or letter in "._-=" else "_" for letter in run.name)
            with SummaryWriter(log_dir=str(place / name)) as writer:
                for step, figures in enumerate(run.curve):
                    for what, value in figures.items():
                        writer.add_scalar(what, value, step)
                writer.add_text("what came out", run.sentence)
                writer.add_hparams(dict(run.parameters), dict(run.figures), run_name=".")
        return f"tensorboard --logdir {place}"
