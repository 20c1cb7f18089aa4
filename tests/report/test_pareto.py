"""The front and its uncertainty: planted networks, areas by hand, coverage of the interval by simulation."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from dyncomp.report.pareto import _area, pareto, resampled_accuracies
from dyncomp.store import Store
from tests.records import IMAGES, cell_record, images_of, used_units
from tests.report.test_controls import NETWORKS, setting_of, timed, write


def added(folder: Path, macs: int, wrong: int) -> Store:
    store = write(folder)
    images = images_of(used_units([], 0), np.full(IMAGES, macs), wrong, 77)
    store.write_cell(cell_record("mine", images, []), images)
    return store


def test_the_area_between_a_front_and_the_lowest_by_hand() -> None:
    cost = np.log2([[1.0, 2.0, 4.0, 8.0]])
    accuracy = np.array([[50.0, 60.0, 55.0, 70.0]])  # the third is on no front
    area = _area(cost, accuracy, np.array([50.0]), np.array([3.0]))
    assert area == pytest.approx([0.0 + 10.0 + 10.0 + 0.0])
    whole = _area(np.c_[cost, [[0.0]]], np.c_[accuracy, [[65.0]]], np.array([50.0]), np.array([3.0]))
    assert whole == pytest.approx([3 * 15.0])
    dearer = _area(np.c_[cost, [[5.0]]], np.c_[accuracy, [[99.0]]], np.array([50.0]), np.array([3.0]))
    assert dearer == pytest.approx(area)  # beyond the dearest static network nothing counts


def test_resampled_accuracies_vary_as_binomial_shares_do(tmp_path: Path) -> None:
    found = resampled_accuracies(setting_of(write(tmp_path)))
    assert set(found) == {spec for spec, (_, _, role, of) in NETWORKS.items() if role != "control" or of == "static"}
    for spec, values in found.items():
        share = 1 - NETWORKS[spec][1] / IMAGES
        assert values.mean() == pytest.approx(100 * share, abs=0.2)
        assert values.std() == pytest.approx(100 * math.sqrt(share * (1 - share) / IMAGES), rel=0.15)


def test_what_no_network_equals_is_surely_on_the_front_and_what_one_beats_is_not(tmp_path: Path) -> None:
    setting = setting_of(added(tmp_path, 310_000, 2))
    found = pareto(setting, resampled_accuracies(setting))
    assert found.on_front["ladder(macs=0.25)"] == 1.0  # nothing is cheaper
    assert found.on_front["mine"] > 0.99
    assert found.on_front["ladder(macs=0.75)"] < 0.01
    assert found.hypervolume["mine"].low > 20
    assert found.hypervolume["costly"].high == 0.0  # dearer than all static networks


def test_of_two_alike_each_is_on_the_front_half_of_the_time(tmp_path: Path) -> None:
    setting = setting_of(added(tmp_path, 720_001, NETWORKS["gated"][1]))
    found = pareto(setting, resampled_accuracies(setting))
    assert found.on_front["gated"] > 0.5 > found.on_front["mine"] > 0.2
    assert found.hypervolume["mine"].middle == pytest.approx(found.hypervolume["gated"].middle, rel=0.2)


def test_times_have_fronts_of_their_own(tmp_path: Path) -> None:
    setting = setting_of(timed(write(tmp_path)))
    accuracies = resampled_accuracies(setting)
    found = pareto(setting, accuracies, 1)
    assert set(found.on_front) == set(setting.gains[1]) & set(accuracies)
    assert found.hypervolume["gated"].low > 0
    assert not pareto(setting, accuracies, 64).on_front.keys() - setting.gains[64].keys()


def test_without_images_nothing_is_said(tmp_path: Path) -> None:
    store = write(tmp_path)
    for path in store.folder.rglob("*.parquet"):
        path.unlink()
    setting = setting_of(store)
    assert resampled_accuracies(setting) == {}
    found = pareto(setting, {})
    assert (found.on_front, found.hypervolume) == ({}, {})


def test_the_share_of_samples_is_that_of_new_test_sets(tmp_path: Path) -> None:
    """Two networks of equal cost, 12 and 20 of 360 wrong: how often a new test set puts the first in front."""
    setting = setting_of(added(tmp_path, 720_000, 20))
    found = pareto(setting, resampled_accuracies(setting)).on_front["mine"]
    draw = np.random.default_rng(0)
    first, second = (draw.binomial(IMAGES, wrong / IMAGES, 20_000) for wrong in (12, 20))
    assert found == pytest.approx((second < first).mean(), abs=0.05)
