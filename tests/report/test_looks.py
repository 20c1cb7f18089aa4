"""The verdict on gates: planted costs of an exchange and p-values, and agreement of written routes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from dyncomp.report import results
from dyncomp.report.looks import Looks, agreement_between_seeds, looks_of
from dyncomp.report.reading import read
from dyncomp.store import Store
from tests.records import skipnet_cell, static_cell

CELL: dict[str, Any] = {
    "top1": 90.0,
    "route_exchange_top1": 80.0,
    "images": 10_000,
    "routes": 12,
    "gates": 6,
    "gates_always_on": 1,
    "routes_class_p": 0.002,
}


@pytest.mark.parametrize(
    ("changes", "mark"),
    [
        ([{}], "looks at the image"),
        ([{"routes_class_p": 0.5}], "looks at the image"),  # not at the class, but at what it takes
        ([{"route_exchange_top1": 89.9}], "weakly"),
        ([{"route_exchange_top1": 89.9, "routes_class_p": 0.01}], "a fixed route"),
        ([{"route_exchange_top1": 89.9}, {"route_exchange_top1": 89.9, "routes_class_p": 0.3}], "a fixed route"),
        ([{"route_exchange_top1": 89.9, "routes_class_p": np.nan}], "unclear"),
        ([{"route_exchange_top1": 88.5, "routes_class_p": 0.5, "images": 360}], "unclear"),
        ([{"route_exchange_top1": 91.0}], "weakly"),
        ([{"routes": 1, "route_exchange_top1": 90.0, "routes_class_p": 1.0}], "a fixed route"),
        ([{"routes": 1, "gates": 0, "gates_always_on": 0, "routes_class_p": np.nan}], "looks at the image"),
        (
            [{"routes": 1, "gates": 0, "gates_always_on": 0, "routes_class_p": np.nan, "route_exchange_top1": 90.0}],
            "a fixed route",
        ),
    ],
)
def test_the_verdict_of_planted_cells(changes: list[dict[str, Any]], mark: str) -> None:
    found = looks_of(pd.DataFrame([CELL | change for change in changes]))
    assert found is not None and found.mark == mark


def test_without_decisions_there_is_no_verdict() -> None:
    assert looks_of(pd.DataFrame([CELL | {"route_exchange_top1": np.nan}])) is None


def test_the_words_say_which_evidence_there_is() -> None:
    weak = looks_of(pd.DataFrame([CELL | {"route_exchange_top1": 89.8}]))
    assert weak == Looks(
        "weakly",
        "exchanging routes between images costs 0.2 points, though routes differ by class (p = 0.002): its gates "
        "hardly look at the image",
    )


def test_agreement_is_read_from_routes_written_as_bits(tmp_path: Path) -> None:
    store = Store.create(tmp_path, {})
    first = skipnet_cell(store, seed=0)
    second = skipnet_cell(store, seed=1)
    reading = read(store)
    own = agreement_between_seeds(reading, [first, second])
    assert own is not None and abs(own) < 0.3  # drawn independently
    assert agreement_between_seeds(reading, [first, first]) == pytest.approx(1.0)
    assert agreement_between_seeds(reading, [first]) is None
    assert agreement_between_seeds(reading, [static_cell(store), static_cell(store, seed=1)]) is None


def test_routes_in_hexadecimal_digits_are_the_same_decisions() -> None:
    from dyncomp.report.looks import _decisions

    bits = np.random.default_rng(0).random((5, 300)) < 0.5
    written = ["".join("01"[bit] for bit in row) for row in bits.astype(int)]
    packed = [np.packbits(row).tobytes().hex() for row in bits]
    plain, hexadecimal = (_decisions(pd.DataFrame({"route": route})) for route in (written, packed))
    assert np.array_equal(plain, bits)
    assert np.array_equal(hexadecimal[:, :300], bits) and not hexadecimal[:, 300:].any()


def test_the_table_has_the_verdict_and_the_bits(tmp_path: Path) -> None:
    store = Store.create(tmp_path, {})
    static_cell(store)
    skipnet_cell(store, route_exchange_top1=50.0, class_p_value=0.002, routes_effective=3.5)
    rows = results(store).set_index("method")
    assert rows.loc["skipnet", "gates_look"] == "looks at the image"
    assert rows.loc["skipnet", "routes_effective"] == 3.5
    assert rows.loc["skipnet", "gates_image_bits"] > 0
    assert rows.loc["skipnet", "gates_class_bits"] == pytest.approx(0.03)
    assert pd.isna(rows.loc["static", "gates_look"])
