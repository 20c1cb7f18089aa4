"""What to ship: the cheapest that is accurate enough, of static networks and methods, by ratios that are valid."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from dyncomp.report.reading import read
from dyncomp.report.recommendation import recommendations
from dyncomp.report.table import results_of
from dyncomp.store import Store
from tests.records import CONFIG, IMAGES, cell_record, images_of, timing, used_units

NETWORKS = {
    "static": (1_200_000, 10, "static", 1.0, 20.0),
    "ladder(macs=0.2)": (240_000, 40, "control", 0.2, 4.0),  # too inaccurate
    "ladder(macs=0.5)": (600_000, 11, "control", 0.8, 10.0),
    "gated": (480_000, 11, "method", 1.5, 12.0),
    'fixed(of="gated")': (450_000, 10, "control", 0.5, 5.0),  # no network of its own
}
"""by spec: multiply-adds, wrong answers, role, ms at batch 1 and 64"""


def write(folder: Path, noise: float = 0.01, without: tuple[str, ...] = (), **faster: float) -> Store:
    store, networks = Store.create(folder, CONFIG), {name: of for name, of in NETWORKS.items() if name not in without}
    keys = []
    for number, (spec, (macs, errors, role, *_)) in enumerate(networks.items()):
        images = images_of(used_units([], 0), np.full(IMAGES, macs), errors, number)
        record = cell_record(spec, images, [], role=role, control_of="static" if role == "control" else "")
        store.write_cell(record, images)
        keys.append(record["key"])
    draw = np.random.default_rng(0)
    for place, size in ((3, 1), (4, 64)):
        means = [of[place] * faster.get(spec, 1.0) for spec, of in networks.items()]
        samples = {
            key: [float(ms) for ms in draw.normal(mean, noise * mean, 60)]
            for key, mean in zip(keys, means, strict=True)
        }
        timing(store, keys, size, means, samples_ms=samples)
    return store


def recommended(store: Store) -> dict[str, str]:
    reading = read(store)
    return {one.goal: f"{one.spec}, {one.text}" for one in recommendations(reading, results_of(reading))}


def test_each_cost_has_the_cheapest_that_is_accurate_enough(tmp_path: Path) -> None:
    latency, throughput, macs = recommended(write(tmp_path)).items()
    assert latency[0] == "least latency at batch 1" and throughput[0] == "most images per second, batch 64"
    assert latency[1].startswith("ladder(macs=0.5), 1.2") and "as good by the clock" not in latency[1]
    assert throughput[1].startswith("ladder(macs=0.5), 2.0") and " as fast as static, 96.9 % (-0.3 ± " in throughput[1]
    assert macs == ("fewest multiply-adds", macs[1])
    assert macs[1].startswith("gated, 2.50x fewer than static, 96.9 % (-0.3 ± ")


def test_what_the_clock_cannot_tell_apart_is_named(tmp_path: Path) -> None:
    assert (
        "as good by the clock: gated"
        in recommended(write(tmp_path, gated=10.02 / 12))["most images per second, batch 64"]
    )


def test_an_invalid_ratio_recommends_nothing(tmp_path: Path) -> None:
    found = recommended(write(tmp_path, noise=0.4))
    assert found["least latency at batch 1"] == (
        "static, 97.2 %: no other within 0.5 points of it is better; no valid timing of gated and ladder(macs=0.5)"
    )
    assert found["fewest multiply-adds"].startswith("gated")  # no clock is asked


@pytest.mark.parametrize("without", [("static",), tuple(name for name in NETWORKS if name != "static")])
def test_with_nothing_to_choose_from_nothing_is_recommended(tmp_path: Path, without: tuple[str, ...]) -> None:
    assert recommended(write(tmp_path, without=without)) == {}
