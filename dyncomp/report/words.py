"""What came out, a sentence per method: from the numbers, as plain about a loss as a gain."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from dyncomp.report import numbers as n
from dyncomp.report.controls import Setting, clauses_of, settings
from dyncomp.report.looks import looks_of
from dyncomp.report.reading import Reading, read
from dyncomp.report.speed import speed
from dyncomp.report.spent import clauses
from dyncomp.report.statistics import (
    Difference,
    contrast,
    over_seeds,
    paired_difference,
    unpaired_difference,
)
from dyncomp.report.table import results_of
from dyncomp.report.worth import worth_of
from dyncomp.store import Store

if TYPE_CHECKING:
    import pandas as pd

SETTING = ("dataset", "backbone", "budget", "device")


@dataclass(frozen=True)
class Sentence:
    """What came out of one method in one setting; `text` follows on `spec` and a colon."""

    method: str
    spec: str
    dataset: str
    backbone: str
    budget: str
    device: str
    text: str
    failed: bool
    """nothing came out: no seed of it ran to the end"""

    @property
    def setting(self) -> tuple[str, ...]:
        """The values of `SETTING`."""
        return self.dataset, self.backbone, self.budget, self.device

    def __str__(self) -> str:
        return f"{self.spec}: {self.text}"


def results(store: Store) -> pd.DataFrame:
    """What came out of all cells of a folder: the columns of `results_of`, each method's sentence in its rows."""
    return full_results(read(store))


def full_results(reading: Reading) -> pd.DataFrame:
    """`results` of a folder that has been read already."""
    frame = results_of(reading)
    return told(frame, words_of(reading, frame))


def told(frame: pd.DataFrame, sentences: Iterable[Sentence]) -> pd.DataFrame:
    """The table with the sentences in the column of that name."""
    texts = {(one.spec, *one.setting): str(one) for one in sentences}
    places = zip(frame["spec"], *(frame[name] for name in SETTING), frame["role"], strict=True)
    said = [None if place[-1] == "control" else texts.get(tuple(map(str, place[:-1]))) for place in places]
    return frame.assign(sentence=said)


def words(store: Store) -> list[Sentence]:
    """One sentence per method and setting, static first."""
    reading = read(store)
    return words_of(reading, results_of(reading))


def words_of(reading: Reading, frame: pd.DataFrame) -> list[Sentence]:
    """`words` of a folder that has been read already."""
    sentences = []
    shown = frame[frame["role"] != "control"]
    found = {_named(setting.rows): setting for setting in settings(reading, frame)}
    for setting, rows in shown.groupby(list(SETTING), sort=False, dropna=False):
        static = rows[(rows["role"] == "static") & (rows["status"] == "ok")]
        for spec, own in rows.groupby("spec", sort=False):
            text, failed = _told(own, static, reading, found.get(_named(own)))
            method = own["method"].iloc[0]
            dataset, backbone, budget, device = map(str, setting)
            sentences.append(Sentence(method, str(spec), dataset, backbone, budget, device, text, failed))
    return sorted(sentences, key=lambda sentence: sentence.failed)


def _named(rows: pd.DataFrame) -> tuple[str, ...]:
    return tuple(str(rows[name].iloc[0]) for name in SETTING)


def _told(own: pd.DataFrame, static: pd.DataFrame, reading: Reading, setting: Setting | None) -> tuple[str, bool]:
    done = own[own["status"] == "ok"]
    if done.empty:
        error = next((str(error) for error in own["error"] if not n.missing(error)), "no error was recorded")
        return f"failed: {error.rstrip('.')}.", True
    cells = done.drop_duplicates("key")
    if own["role"].iloc[0] == "static":
        said = [_static(cells, done)]
    else:
        said = [f"{_against(cells, static, reading, setting)} {_arithmetic(cells)}{speed(done)}"]
        if setting is not None:
            said += clauses_of(setting, str(cells["spec"].iloc[0]))
        said += _gates(cells)
        if (looks := looks_of(cells)) and looks.why:
            said.append(looks.why)
        keys = set(cells["key"])
        said += clauses(cells, [cell for cell in reading.cells if cell["key"] in keys])
        if setting is not None and (worth := worth_of(setting, str(cells["spec"].iloc[0]))):
            said.append(str(worth))
    failures = own["key"].nunique() - len(cells)
    if failures:
        said.append(f"{failures} of {own['key'].nunique()} seeds failed")
    return "; ".join(said) + ".", False


def _static(cells: pd.DataFrame, rows: pd.DataFrame) -> str:
    times = [
        f"{n.significant(group['latency_ms_p50'].mean())} ms at batch {size}"
        for size, group in rows.groupby("batch_size")
        if group["latency_ms_p50"].notna().any()
    ]
    cost = f"{n.macs(cells['macs'].mean())} multiply-adds per image"
    timing = f", {n.listed(times)}" if times else ""
    return f"{_accuracy(cells)} with {cost}{timing}: what the others are measured against"


def _accuracy(cells: pd.DataFrame) -> str:
    text = n.percent(cells["top1"].mean())
    if len(cells) == 1:
        return text
    deviation = n.fixed(cells["top1"].std(), 1)
    return f"{text} (mean of {len(cells)} seeds, standard deviation {deviation})"


def _against(cells: pd.DataFrame, static: pd.DataFrame, reading: Reading, setting: Setting | None) -> str:
    pairs = cells.merge(static.drop_duplicates("key"), on="seed", suffixes=("", "_static"))
    if pairs.empty:
        return f"{_accuracy(cells)} (no static network of the same seed to compare with)"
    difference = None
    if len(pairs) > 1 and setting is not None:
        frames = [
            [(1.0, reading.images(key)), (-1.0, reading.images(key_static))]
            for key, key_static in zip(pairs["key"], pairs["key_static"], strict=True)
        ]
        difference = contrast(frames, setting.spread)
    difference = difference or over_seeds([_difference(pair, reading) for _, pair in pairs.iterrows()])
    reference = n.percent(pairs["top1_static"].mean())
    return f"{_accuracy(cells)} against {reference} of static ({_margin(difference)})"


def _difference(pair: pd.Series, reading: Reading) -> Difference:
    static, own = reading.images(pair["key_static"]), reading.images(pair["key"])
    found = paired_difference(static, own) if static is not None and own is not None else None
    return found or unpaired_difference(pair["top1_static"], pair["top1"], int(pair["images"]))


def _margin(difference: Difference) -> str:
    text = f"{n.points(difference.points)} ± {n.fixed(difference.margin, 1)} points"
    if difference.distinguishable:
        return text
    text = f"{text}, not distinguishable on {difference.images} test images"
    if difference.p_value is None or abs(difference.points) <= difference.margin:
        return text
    return f"{text}, exact p = {n.significant(difference.p_value, 2)}"  # the margin alone would say otherwise


def _arithmetic(cells: pd.DataFrame) -> str:
    share = 100 * (cells["macs"] / cells["macs_static"].astype(float)).mean()
    claimed, executed = cells["speedup_claimed"].mean(), cells["speedup_executed"].mean()
    target = cells["target"].iloc[0]
    asked = "" if n.missing(target) else f"target={target:g}, "
    text = f"at {n.fixed(share, 0, ' %')} of its multiply-adds ({asked}claimed {n.ratio(claimed)}, "
    if executed < 0.95 * claimed:
        return f"{text}but what ran only {n.ratio(executed)})"
    return f"{text}executed {n.ratio(executed)})"


def _gates(cells: pd.DataFrame) -> Iterable[str]:
    gates, on, off = (int(cells[name].max()) for name in GATE_COUNTS)
    routes = sorted({int(count) for count in cells["routes"]})
    if cells["gates_always_on"].min() == gates:  # also where there is nothing that could be skipped
        collapsed = gates > 0 and (cells["route_exchange_top1"] == cells["top1"]).all()
        why = "its gates have collapsed" if collapsed else "it skips nothing"
        yield f"{why}: every unit runs for every image"
        return
    if routes == [1]:
        yield "every image takes the same route: this is a static pruning"
    else:
        span = str(routes[0]) if len(routes) == 1 else f"{routes[0]} to {routes[-1]}"
        yield f"{span} distinct routes over {int(cells['images'].max())} test images"
    stuck = [f"{count} always {state}" for count, state in ((on, "on"), (off, "off")) if count]
    if stuck:
        yield f"of its {gates} gates, {n.listed(stuck)}"


GATE_COUNTS = ("gates", "gates_always_on", "gates_always_off")
