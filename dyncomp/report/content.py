"""What the page and the Markdown say, as plain values that the two templates lay out."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from dyncomp.report import numbers as n
from dyncomp.report.controls import settings
from dyncomp.report.details import Detail, Failure, detail, failures, place, warnings_of
from dyncomp.report.latency import timings_of
from dyncomp.report.overview import overview_table
from dyncomp.report.published import published_table
from dyncomp.report.reading import Reading
from dyncomp.report.recommendation import ACCEPTED, Recommendation, recommendations
from dyncomp.report.spent import gap_table
from dyncomp.report.tables import Table, control_table, results_table, summary_table
from dyncomp.report.words import Sentence, words_of
from dyncomp.samples.intervals import BETWEEN
from dyncomp.samples.verdicts import LEAST_ROUNDS, MOST_DRIFT, MOST_LOAD, MOST_SPREAD, MOST_WIDTH
from dyncomp.store.schema import CellRecord, TimingRecord

if TYPE_CHECKING:
    import pandas as pd

CONVENTIONS = (
    (
        "MACs",
        "Multiply-adds of convolutions, linear layers and matrix products, per image; gates and "
        "the mixing of kernels are included. Mean over the test images. FLOPs are 2 * MACs.",
    ),
    ("claimed", "The static network's MACs by the MACs that the gates' decisions price."),
    (
        "executed",
        "The static network's MACs by those that really ran in the network that is timed.",
    ),
    (
        "realised",
        "By the clock: in each round every network gets the same real images, one network after the "
        "other, each in a process of its own; the speed-up is the median over rounds of the static "
        "network's time by the method's time in the same round. A pass that takes more than 1.5 times the "
        "lower quartile on the same batch was interrupted, and counts as that. The 95 % interval comes from a "
        "bootstrap over "
        f"blocks of rounds and from the {BETWEEN:.1%} (standard deviation) by which one network's ratio to itself "
        "differs from one timing to the next. Faster or slower is said only where all of it is on that side of 1.",
    ),
    (
        "latency",
        "Milliseconds per batch of the given size, sparse form: p50, p90 and p99 over all batches. Batch norms are "
        "folded into convolutions; where forms were compiled too, static is the faster of its two. Other forms that "
        "were timed have columns in results.csv.",
    ),
    (
        "timing",
        "VALID, or INVALID and why. A ratio to static is judged by the ratios of its rounds: fewer than "
        f"{LEAST_ROUNDS}; known too roughly, when the interval is wider than {MOST_WIDTH:.0%} of the ratio; drifting, "
        f"when the last third differs by more than {MOST_DRIFT:.0%} from the first, beyond chance. What slows both "
        "networks of a round alike leaves their ratio as it is. Milliseconds have a verdict of their own: noisy, when "
        f"rounds on the same images have an interquartile range over {MOST_SPREAD:.0%} of the median; drifting; other "
        f"load, when other programs took more than {MOST_LOAD:.0%} of the processors. An INVALID ratio says nothing "
        "about which network is faster.",
    ),
    (
        "where time goes",
        "In percent of the static network's time on the same batch. MACs at static's pace: what the claimed speed-up "
        "promises, gates left out. Slower or faster per MAC: the parts that run, beyond that pace, when every unit is "
        "on and nothing is packed. Gates, and gathering and scattering: by a stopwatch that the network's own ops "
        "start and stop. Launches: calls beyond those, at the cost of a call that does nothing, so at least. Smaller "
        "batches: what is left. A sketch from a few passes; realised is what the timing says. Passes that are too few, "
        "noisy, or against what the timing says are INVALID.",
    ),
    (
        "operators",
        "Time inside operators on test images in the sparse form, by torch's profiler, each with what it calls. Free "
        "by convention: normalisation, activations, pooling, copies, gathering and scattering have no MACs, but they "
        "do take time.",
    ),
    (
        "other counters",
        "torch's counter and fvcore on one test image, on its own route. Differences above 1 % are told by operator. "
        "fvcore prices normalisation and pooling, and its trace cuts out gates that only decide.",
    ),
    (
        "accuracy",
        "Top-1 on the test split. The margin is 95 %, from the same images for both networks where "
        "the records hold them; of one seed, McNemar's exact test decides what is distinguishable. Of several seeds, "
        "networks of the same seed are compared, and two margins are added as squares: that of the test images, from "
        "each image's right answers, mean over the seeds; and that of the seeds, from the standard deviation of "
        "accuracies between seeds, pooled over all networks (Student's t). Thresholds and early stopping see the "
        "calibration split only.",
    ),
    (
        "controls",
        "Static nets of several sizes, trained alike, and the accuracy between two of them at a method's "
        "multiply-adds, or at its time as a share of static's, by the logarithm of the cost; what is not known of a "
        "time moves the method along the curve, and widens its interval. Fixed: the method's trained network, each "
        "gate's decision the same for all images, at the method's cost, trained on. Random: each gate draws at its "
        "trained rate, trained on so. Intervals are 95 %, from the same images, and from how much accuracies vary "
        "over seeds, where there are several. Above, below and better are said where, of all such differences of a "
        "setting that are as sure, at most 5 % are expected to be chance (Benjamini and Hochberg 1995); `q` in "
        "results.csv is that share.",
    ),
    (
        "recommended",
        "Of static nets of all sizes and of methods, without controls of gates: the one with the least cost whose mean "
        f"accuracy is at most {ACCEPTED:g} points below static's. By the clock, those of which every seed's ratio is "
        "VALID; others whose interval reaches that of the best are named beside it.",
    ),
    (
        "gates",
        "Exchange: accuracy when every image is computed along the route of another one; where that costs nothing, the "
        "routes do not depend on the image in a way that matters. Image (bits): the entropy of a gate's decision over "
        "the test images, with Miller's correction (1955). Class (bits): the mutual information of decision and class, "
        "less its mean over 499 permutations of the labels; those permutations also say whether all gates together "
        "follow the class. Gates look at the image where the exchange costs more than the luck of the test images; "
        "weakly where it does not, and decisions follow the class in every seed, p < 0.01; else the route is as good "
        "as fixed. Agreement between seeds is Cohen's kappa over all gates (1: the same decisions, 0: as by chance; "
        "channels and branches have no order that seeds could share).",
    ),
    (
        "front",
        "Share of 1000 resamples in which no network costs less and is more accurate: test images are drawn anew, the "
        "same for all networks, and means over seeds vary as they do between seeds. A method widens the static front "
        "by its share of their area above the lowest of them, over the logarithm of cost up to the dearest "
        "(hypervolume, Zitzler and Thiele 1999), with a 95 % interval; it is never below 0.",
    ),
)


@dataclass(frozen=True)
class Content:
    """All of a report but its plots; every text is as recorded, to be escaped by the template."""

    recommendations: tuple[Recommendation, ...]
    sentences: tuple[Sentence, ...]
    overview: Table
    """a row per network, means over seeds"""
    table: Table
    controls: Table | None
    """what static nets of equal cost and rules in the gates' place reach; None without controls"""
    gap: Table | None
    """where each method's time goes; None where that was not measured"""
    summary: Table | None
    """over the seeds; None where there is one seed alone"""
    published: Table | None
    """what papers report of the same methods; None where nothing is known of them"""
    details: tuple[Detail, ...]
    failures: tuple[Failure, ...]
    problems: tuple[str, ...]
    warnings: tuple[tuple[str, str], ...]
    setting: tuple[tuple[str, str], ...]
    environment: tuple[tuple[str, str], ...]
    conventions: tuple[tuple[str, str], ...]

    @property
    def places(self) -> int:
        """How many pairs of data set and backbone there are."""
        return len({(sentence.dataset, sentence.backbone) for sentence in self.sentences})


def content(reading: Reading, frame: pd.DataFrame) -> Content:
    """Everything that a report says about a folder, but the plots."""
    shown = timings_of([cell["key"] for cell in reading.cells], reading.timings, reading.statics)
    places = {key: place for place, key in enumerate(dict.fromkeys(frame["key"]))}
    done = sorted((cell for cell in reading.cells if cell["status"] == "ok"), key=lambda cell: places[cell["key"]])
    return Content(
        recommendations=tuple(recommendations(reading, frame)),
        sentences=tuple(words_of(reading, frame)),
        overview=overview_table(list(settings(reading, frame))),
        table=results_table(frame),
        controls=control_table(frame),
        gap=gap_table(done, frame),
        summary=summary_table(frame) if frame["seed"].nunique() > 1 else None,
        published=published_table(frame),
        details=tuple(detail(cell, reading.images(cell["key"])) for cell in done),
        failures=tuple(failures(reading, frame)),
        problems=reading.problems,
        warnings=tuple(_warnings(done)),
        setting=tuple(_setting(reading, frame, shown)),
        environment=tuple(_environment(reading, shown)),
        conventions=CONVENTIONS,
    )


def _warnings(cells: Iterable[CellRecord]) -> Iterable[tuple[str, str]]:
    """Each warning once, with the cell that has it, and all its seeds."""
    seeds: dict[tuple[str, str], list[str]] = {}
    for cell in cells:
        for text in warnings_of(cell):
            seeds.setdefault((place(cell), text), []).append(str(cell["seed"]))
    for (where, text), found in seeds.items():
        yield f"{where}, seed{'s' if len(found) > 1 else ''} {', '.join(found)}", text


def _setting(reading: Reading, frame: pd.DataFrame, timings: Sequence[TimingRecord]) -> Iterable[tuple[str, str]]:
    """What was run, each value that occurs once."""
    for name in ("dataset", "backbone", "budget", "device", "seed"):
        yield f"{name}s" if name == "seed" else name, _values(frame[name])
    yield "epochs", _values(cell["epochs"] for cell in reading.cells)
    yield "batch sizes", _values(frame["batch_size"])
    yield "timed rounds", _values(frame["rounds"])
    yield "threads", _values(timing["threads"] for timing in timings)
    yield "test images", _values(frame["images"])
    yield "finished", max((cell["finished_at"] for cell in reading.cells), default="")
    if left_out := reading.store.config["left_out"]:
        yield "left out", "; ".join(f"{one['method']} on {one['backbone']}: {one['reason']}" for one in left_out)
    yield "git commit", _values((cell["git_commit"] or "")[:12] for cell in reading.cells)


def _values(values: Iterable[Any]) -> str:
    known = {value for value in values if not n.missing(value) and value != ""}
    return ", ".join(n.plain(value) for value in sorted(known)) or n.MISSING


def _environment(reading: Reading, timings: Sequence[TimingRecord]) -> Iterable[tuple[str, str]]:
    """Every value of the machines and versions that the numbers come from; more than one is itself worth knowing."""
    seen: dict[str, set[str]] = {}
    for record in (*reading.cells, *timings):
        for name, value in record["environment"].items():
            seen.setdefault(name, set()).add(str(value))
    return [(name, ", ".join(sorted(values))) for name, values in seen.items()]
