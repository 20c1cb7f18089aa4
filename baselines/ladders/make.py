"""Write the static ladder of a run's folder as CSV files beside this one, where reports without a ladder find it.

    benchmark --methods static --backbone BACKBONE --dataset DATASET --budget EPOCHS --seeds 0,1 --output FOLDER
    python -m baselines.ladders.make FOLDER

One row for each static net: its spec, multiply-adds per image, parameters, top-1 in percent (mean and sample standard
deviation over the seeds), and what it was trained on and for how many epochs.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from dyncomp.report import results
from dyncomp.report.controls import RUNG
from dyncomp.report.figures import slug
from dyncomp.store import Store

HERE = Path(__file__).parent


def main() -> None:
    """Read the folder's records, write a file for each setting, and name the files."""
    options = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    options.add_argument("folder", type=Path, help="output folder of a run with its controls")
    frame = results(Store.open(options.parse_args().folder)).drop_duplicates("key")
    static = frame[(frame["status"] == "ok") & ((frame["role"] == "static") | (frame["method"] == RUNG))]
    for (dataset, backbone, budget), rows in static.groupby(["dataset", "backbone", "budget"]):
        nets = rows.groupby("spec").agg(
            macs=("macs", "mean"),
            params=("params", "first"),
            top1=("top1", "mean"),
            top1_std=("top1", "std"),
            seeds=("seed", "nunique"),
        )
        nets = nets.reset_index().sort_values("macs").assign(dataset=dataset, backbone=backbone, epochs=budget)
        file = HERE / f"{slug(f'{dataset}-{backbone}-{budget}')}.csv"
        nets.to_csv(file, index=False, float_format="%.6g", lineterminator="\n")
        print(file)


if __name__ == "__main__":
    main()
