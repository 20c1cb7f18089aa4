"""The sentences: each clause appears when, and only when, the numbers say so."""

from __future__ import annotations

import json
import math

import numpy as np
import pandas as pd
import pytest

from dyncomp.report import words
from dyncomp.report.numbers import fixed, listed, macs, plain, points, significant
from dyncomp.report.statistics import (
    Difference,
    binomial_margin,
    over_seeds,
    paired_difference,
    unpaired_difference,
)
from dyncomp.report.words import _margin
from dyncomp.store import Store
from tests.records import failed_cell, skipnet_cell, static_cell, timing


def text_of(store: Store, spec: str = "skipnet(target=0.5)") -> str:
    return next(sentence.text for sentence in words(store) if sentence.spec == spec)


def frames(static_wrong: set[int], method_wrong: set[int], images: int) -> tuple[pd.DataFrame, pd.DataFrame]:
    label = np.zeros(images, dtype=int)
    wrong = [np.isin(np.arange(images), list(which)).astype(int) for which in (static_wrong, method_wrong)]
    return tuple(pd.DataFrame({"label": label, "prediction": prediction}) for prediction in wrong)  # type: ignore[return-value]


def test_sentences_of_a_folder(store: Store) -> None:
    assert [str(sentence) for sentence in words(store)] == [
        "static: 98.6 % with 1.20 M multiply-adds per image, 1.06 ms at batch 1 and 21.4 ms at batch 64: "
        "what the others are measured against.",
        "condconv: 98.9 % against 98.6 % of static (+0.3 ± 1.4 points, not distinguishable on 360 test images) "
        "at 106 % of its multiply-adds (claimed 0.94x, executed 0.94x), and slower at batch 1 (0.63x) and 64 (0.77x); "
        "it skips nothing: every unit runs for every image; "
        "exchanging weights between images costs 7.9 points, so its gates do look at the image.",
        "skipnet(target=0.5): 98.1 % against 98.6 % of static (-0.6 ± 1.9 points, not distinguishable on 360 test "
        "images) at 65 % of its multiply-adds (claimed 1.54x, executed 1.54x), but only 1.17x faster at batch 64 and "
        "slower at batch 1 (0.72x); 16 distinct routes over 360 test images; of its 6 gates, 1 always on and 1 always "
        "off; exchanging routes between images costs 0.3 points, so its gates hardly look at the image; worth it: "
        "unclear, static nets of equal latency are no worse at batch 1, at batch 64 not known.",
        "blockdrop: failed: TypeError: build() takes 1 positional argument.",
    ]


@pytest.mark.parametrize(("lost", "won"), [(0, 0), (6, 0), (5, 0), (9, 1), (9, 2), (3, 14), (20, 20)])
def test_mcnemar_against_the_binomial_tail(lost: int, won: int) -> None:
    images, differing = 400, lost + won
    static, method = frames(set(range(won)), set(range(won, won + lost)), images)
    found = paired_difference(static, method)
    tail = sum(math.comb(differing, k) for k in range(min(lost, won) + 1)) / 2**differing
    assert found is not None
    assert found.distinguishable == (min(1.0, 2 * tail) < 0.05)
    share = [(won - lost) / images, differing / images]
    margin = 1.959964 * math.sqrt((share[1] - share[0] ** 2) / images)
    assert (found.points, found.margin) == pytest.approx((100 * share[0], 100 * margin), rel=1e-6)


def test_frames_about_other_images_are_not_paired() -> None:
    static, method = frames({1}, {2}, 10)
    assert paired_difference(static, method.iloc[:9]) is None
    assert paired_difference(static, method.assign(label=1)) is None


def test_unpaired_difference_is_wider_than_the_paired_one() -> None:
    static, method = frames({1, 2, 3}, {1, 2, 3, 4}, 100)
    paired, unpaired = paired_difference(static, method), unpaired_difference(97.0, 96.0, 100)
    assert paired is not None
    assert paired.points == pytest.approx(unpaired.points) == -1.0
    assert unpaired.margin > 2 * paired.margin
    assert unpaired_difference(90.0, 50.0, 100).distinguishable


def test_binomial_margin_by_its_formula() -> None:
    share = (90 + 2) / 104
    assert binomial_margin(90.0, 100) == pytest.approx(195.9964 * math.sqrt(share * (1 - share) / 104), rel=1e-6)
    assert binomial_margin(100.0, 360) > 0.5


@pytest.mark.parametrize(
    ("values", "margin", "distinguishable"),
    [
        ([-1.0, -1.1, -0.9], 4.302653 * 0.1 / math.sqrt(3), True),  # t with 2 degrees of freedom
        ([-1.0, 1.0, 0.0], 4.302653 * 1.0 / math.sqrt(3), False),
    ],
)
def test_margin_over_seeds_is_students(values: list[float], margin: float, distinguishable: bool) -> None:
    found = over_seeds([Difference(value, 0.01, True, 360, True) for value in values])
    assert found.points == pytest.approx(sum(values) / 3)
    assert found.margin == pytest.approx(margin, rel=1e-5)
    assert found.distinguishable is distinguishable


def test_seeds_that_agree_do_not_hide_the_luck_of_the_images() -> None:
    found = over_seeds([Difference(-0.5, 1.5, False, 360, True)] * 3)
    assert (found.margin, found.distinguishable) == (pytest.approx(1.5), False)


def test_loss_beyond_sampling_error_is_told_without_mercy(empty: Store) -> None:
    static_cell(empty, errors=5)
    skipnet_cell(empty, errors=60)
    text = text_of(empty)
    assert text.startswith("83.3 % against 98.6 % of static (-15.3 ± ")
    assert "not distinguishable" not in text


@pytest.mark.parametrize(
    ("ms", "told"),
    [
        ({1: 1.0, 64: 0.6}, ", and 1.67x faster at batch 64 but no faster at batch 1 (1.00x);"),
        ({1: 0.6, 64: 0.6}, ", and 1.67x faster at batch 1 and 1.67x faster at batch 64;"),
        ({1: 0.9, 64: 0.8}, ", but only 1.25x faster at batch 64 and 1.11x faster at batch 1;"),
        ({1: 2.0, 8: 1.6, 64: 0.9}, ", but only 1.11x faster at batch 64 and slower at batch 1 (0.50x) and 8 (0.62x);"),
        ({1: 1.0, 8: 2.0}, ", but no faster at batch 1 (1.00x) and slower at batch 8 (0.50x);"),
        ({}, ", not timed;"),
    ],
)
def test_words_for_the_clock(empty: Store, ms: dict[int, float], told: str) -> None:
    keys = [static_cell(empty), skipnet_cell(empty)]
    noise = np.random.default_rng(0).normal(1, 1e-3, 21)
    for size, mean in ms.items():
        timing(empty, keys, size, (1, 1), samples_ms={keys[0]: list(noise), keys[1]: [mean] * 21})
    assert told in text_of(empty)


@pytest.mark.parametrize(
    ("ms", "invalid", "told"),
    [
        ({1: 0.6}, [1], ", but no valid timing at batch 1 (1.67x measured);"),
        ({1: 0.6, 64: 0.6}, [1], ", and 1.67x faster at batch 64 but no valid timing at batch 1 (1.67x measured);"),
        ({1: 2.0, 64: 2.0}, [64], ", but slower at batch 1 (0.50x) and no valid timing at batch 64 (0.50x measured);"),
    ],
)
def test_an_invalid_ratio_is_neither_faster_nor_slower(
    empty: Store, ms: dict[int, float], invalid: list[int], told: str
) -> None:
    keys = [static_cell(empty), skipnet_cell(empty)]
    for size, mean in ms.items():
        spread = (0.5, 1.0, 2.0) if size in invalid else (1.0, 1.0, 1.0)
        own = list(np.random.default_rng(0).permutation([mean * share for share in spread] * 7))
        noisy = dict.fromkeys(keys, "INVALID: noisy")  # of milliseconds, which a ratio may be known without
        timing(empty, keys, size, (1, 1), samples_ms={keys[0]: [1.0] * 21, keys[1]: own}, verdicts=noisy)
    assert told in text_of(empty)


def test_masked_not_skipped_is_said(empty: Store) -> None:
    static_cell(empty)
    skipnet_cell(empty, speedup_executed=1.0)
    assert "(claimed 1.54x, but what ran only 1.00x)" in text_of(empty)


@pytest.mark.parametrize(
    ("rates", "told", "untold"),
    [
        ((1.0, 0.0, 1.0, 0.0, 1.0, 1.0), "every image takes the same route: this is a static pruning", "distinct"),
        ((1.0,) * 6, "it skips nothing: every unit runs for every image", "pruning"),
        ((0.5,) * 6, "distinct routes over 360 test images", "always"),
        ((1.0, 0.5, 0.5, 0.5, 0.5, 0.5), "of its 6 gates, 1 always on", "always off"),
    ],
)
def test_words_for_the_gates(empty: Store, rates: tuple[float, ...], told: str, untold: str) -> None:
    static_cell(empty)
    skipnet_cell(empty, rates=rates, route_exchange_top1=98.0)
    assert told in text_of(empty)
    assert untold not in text_of(empty)
    assert ("exchanging" in text_of(empty)) == ("pruning" not in told)


def test_gates_that_are_always_open_have_collapsed(empty: Store) -> None:
    static_cell(empty)
    key = skipnet_cell(empty, rates=(1.0,) * 6)
    record = empty.folder / f"records/{key}.json"
    cell = json.loads(record.read_text())
    record.write_text(json.dumps(cell | {"route_exchange_top1": cell["top1"]}))
    assert "; its gates have collapsed: every unit runs for every image" in text_of(empty)


@pytest.mark.parametrize(
    ("exchanged", "told"),
    [
        (98.05555, "costs nothing, so its gates hardly look at the image"),
        (97.2, "costs 0.9 points, so its gates hardly look at the image"),
        (98.6, "gains 0.5 points, so its gates hardly look at the image"),
        (97.0, "costs 1.1 points, which may be luck of the test images"),
        (90.0, "costs 8.1 points, so its gates do look at the image"),
        (100.0, "gains 1.9 points, so its gates harm"),
    ],
)
def test_words_for_the_exchange_of_routes(empty: Store, exchanged: float, told: str) -> None:
    static_cell(empty)
    skipnet_cell(empty, route_exchange_top1=exchanged)
    assert f"exchanging routes between images {told}" in text_of(empty)


def test_several_seeds_and_a_failed_one(seeds: Store) -> None:
    failed_cell(seeds, spec="skipnet(target=0.5)", seed=3)
    text = text_of(seeds)
    assert text.startswith("97.5 % (mean of 3 seeds, standard deviation 0.6) against 98.3 % of static (-0.8 ± ")
    assert text.endswith("; 1 of 4 seeds failed.")


def test_the_test_is_named_where_the_margin_alone_would_say_otherwise() -> None:
    five_lost = paired_difference(*frames(set(), set(range(5)), 359))
    assert five_lost is not None
    assert five_lost.points < -five_lost.margin
    assert _margin(five_lost) == "-1.4 ± 1.2 points, not distinguishable on 359 test images, exact p = 0.062"
    one_lost = paired_difference(*frames(set(), {1}, 359))
    assert one_lost is not None
    assert _margin(one_lost).endswith("not distinguishable on 359 test images")


def test_without_per_image_files_the_margin_is_binomial(store: Store) -> None:
    for path in store.records.glob("*.parquet"):
        path.unlink()
    margin = math.hypot(binomial_margin(100 * 355 / 360, 360), binomial_margin(100 * 353 / 360, 360))
    assert f"(-0.6 ± {margin:.1f} points, not distinguishable" in text_of(store)


def test_without_static_nothing_is_compared(empty: Store) -> None:
    failed_cell(empty, spec="static", role="static")
    skipnet_cell(empty)
    text = text_of(empty)
    assert text.startswith("98.1 % (no static network of the same seed to compare with) at 65 % of its multiply-adds")


@pytest.mark.parametrize(
    ("written", "text"),
    [
        (points(-0.04), "0.0"),
        (points(0.35), "+0.3"),
        (points(-0.55), "-0.6"),
        (fixed(None, 1), "\N{EN DASH}"),
        (fixed(pd.NA, 1), "\N{EN DASH}"),
        (fixed(-0.0, 1), "0.0"),
        (plain(3.0), "3"),
        (plain(0.45), "0.45"),
        (plain("standard"), "standard"),
        (macs(1_234_567), "1.23 M"),
        (macs(999), "999"),
        (macs(4.09e9), "4.09 G"),
        (significant(0.0123), "0.0123"),
        (significant(12345.6), "12\N{NO-BREAK SPACE}346"),
        (listed(["a"]), "a"),
        (listed(["a", "b", "c"]), "a, b and c"),
    ],
)
def test_numbers_as_written(written: str, text: str) -> None:
    assert written == text
