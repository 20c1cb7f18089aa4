"""What a trained network does on the splits: accuracy, multiply-adds, gates, operating points, streams of frames.

All of it follows from the weights and the data. MACs are multiply-adds, gates included; FLOPs are twice that.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Literal, TypedDict

from dyncomp.store.schema.key import FINISHED, LEFT_OUT, Key, When, beside
from dyncomp.store.schema.streams import StreamsRecord

DIFFICULTY = beside(
    "macs_difficulty_rank_correlation", "the cell is `ok`, and the data set knows how difficult each image is"
)
COUNTED = When("the counter could count", lambda opinion: "error" not in opinion)
FAILED = When("the counter failed", lambda opinion: "macs" not in opinion)
FVCORE = When("of fvcore, where it could count", None)
FORMER = When("records of former versions", None)


class IntervalRecord(TypedDict):
    """A difference of two means, with its 95 % interval (Welch 1947)."""

    mean: Annotated[float, Key("the difference itself", "MACs")]
    low: Annotated[float, Key("lower end of the interval", "MACs")]
    high: Annotated[float, Key("upper end of the interval", "MACs")]


_Named = TypedDict("_Named", {"class": Annotated[str, Key("the class's name")]})  # a word of Python's own


class ClassRecord(_Named):
    """The test images of one class."""

    images: Annotated[int, Key("how many there are", "images")]
    macs: Annotated[float, Key("mean of an image", "MACs")]
    flops: Annotated[float, Key("twice `macs`", "FLOPs")]
    top1: Annotated[float, Key("top-1 accuracy", "%")]


class Spending(TypedDict, total=False):
    """Where a network spends its multiply-adds."""

    macs: Annotated[float, Key("mean of a test image, priced by the gates' decisions", "MACs", when=FINISHED)]
    macs_std: Annotated[float, Key("standard deviation over the test images", "MACs", when=FINISHED)]
    macs_p5: Annotated[float, Key("5th percentile over the test images", "MACs", when=FINISHED)]
    macs_p50: Annotated[float, Key("median over the test images", "MACs", when=FINISHED)]
    macs_p95: Annotated[float, Key("95th percentile over the test images", "MACs", when=FINISHED)]
    macs_max: Annotated[int, Key("of the dearest test image", "MACs", when=FINISHED)]
    macs_right: Annotated[
        float | None, Key("mean of the images answered rightly; null of none", "MACs", when=FINISHED, before=None)
    ]
    macs_wrong: Annotated[
        float | None, Key("mean of the images answered wrongly; null of none", "MACs", when=FINISHED, before=None)
    ]
    macs_wrong_less_right: Annotated[
        IntervalRecord | None,
        Key("`macs_wrong` less `macs_right`; null where either has fewer than two images", when=FINISHED, before=None),
    ]
    macs_by_class: Annotated[Sequence[ClassRecord], Key("class by class of the test images", when=FINISHED, before=())]
    macs_difficulty_rank_correlation: Annotated[
        float | None,
        Key(
            "Spearman's, of an image's MACs with its difficulty; null where one never varies",
            "-1 to 1",
            when=DIFFICULTY,
        ),
    ]
    macs_difficulty_rank_correlation_low: Annotated[
        float | None, Key("lower end of its 95 % interval", when=DIFFICULTY)
    ]
    macs_difficulty_rank_correlation_high: Annotated[float | None, Key("its upper end", when=DIFFICULTY)]
    macs_difficulty_rank_correlation_p_value: Annotated[float | None, Key("its p-value", "0 to 1", when=DIFFICULTY)]


class _FormerGate(TypedDict, total=False):
    skippable: Annotated[bool, Key("whether the unit may be left out; true of every gate today", when=FORMER)]


class GateRecord(_FormerGate):
    """A unit of a site that may be left out; or all units of a site together, where there are many."""

    site: Annotated[str, Key("where in the network the gate decides")]
    unit: Annotated[int | None, Key("number of the unit within its site; null where the record is of several")]
    units: Annotated[int, Key("units that the record is of", before=1)]
    always_on: Annotated[
        int, Key("how many of them run for every test image", "units", before=lambda gate: int(gate["rate_test"] == 1))
    ]
    always_off: Annotated[
        int, Key("how many run for no test image", "units", before=lambda gate: int(gate["rate_test"] == 0))
    ]
    rate_test: Annotated[float, Key("share of the test images that a unit runs for, mean of the units", "0 to 1")]
    rate_calibration: Annotated[float, Key("the same of the calibration images", "0 to 1")]
    input_dependence: Annotated[
        float, Key("mutual information of image and decision, mean of the units; 0: never varies", "bits")
    ]
    class_information: Annotated[
        float | None,
        Key(
            "mutual information of class and decision less what chance gives, mean of the units; null: not known",
            "bits",
            before=None,
        ),
    ]
    by_class: Annotated[
        Sequence[float],
        Key("share of the test images of each class that a unit runs for, mean of the units", "0 to 1", before=()),
    ]
    unit_macs: Annotated[int, Key("of a unit, for one image; mean of the units", "MACs")]
    overhead_macs: Annotated[int, Key("of the gate itself, for one image", "MACs")]


class MixtureRecord(TypedDict):
    """A unit that runs for every image with a weight that the image decides, such as an expert."""

    site: Annotated[str, Key("where in the network the weights are decided")]
    unit: Annotated[int, Key("number of the unit within its site")]
    weight: Annotated[float, Key("mean weight over the test images")]
    by_class: Annotated[Sequence[float], Key("mean weight over the test images of each class")]


class GalleryRecord(TypedDict):
    """A test image that is among the cheapest or the dearest ones."""

    image: Annotated[int, Key("its number in the test split")]
    end: Annotated[Literal["cheapest", "dearest"], Key("at which end of the costs it stands")]
    macs: Annotated[int, Key("what it costs", "MACs")]
    label: Annotated[str, Key("its class")]
    prediction: Annotated[str, Key("the class that was answered")]
    png: Annotated[str, Key("the image, at most 64 pixels wide and high, as a PNG file in base 64")]


class PointRecord(TypedDict):
    """An operating point: the trained network at one setting of its thresholds, on the test images."""

    name: Annotated[str, Key("the method's name for it")]
    kind: Annotated[str, Key("the curve that it is a point of, such as `default` or `budgeted`")]
    thresholds: Annotated[Mapping[str, float], Key("by site, chosen on the calibration images")]
    top1: Annotated[float, Key("top-1 accuracy", "%")]
    macs: Annotated[float, Key("mean of an image", "MACs")]
    flops: Annotated[float, Key("twice `macs`", "FLOPs", before=lambda point: 2 * point["macs"])]
    leaves: Annotated[
        Sequence[float], Key("images that leave at each exit and, last, at the end; none without exits", "0 to 1")
    ]


class OpinionRecord(TypedDict, total=False):
    """What another counter says of one test image, on its own route in the sparse form."""

    macs: Annotated[int, Key("its count", "MACs", when=COUNTED)]
    flops: Annotated[int, Key("twice `macs`", "FLOPs", when=COUNTED)]
    by_operator: Annotated[Mapping[str, int], Key("its count by operator", "MACs", when=COUNTED)]
    differences: Annotated[
        Mapping[str, int],
        Key("its count less ours by kind of operator; none where the totals agree within 1 %", "MACs", when=COUNTED),
    ]
    unsupported: Annotated[Mapping[str, int], Key("operators that it cannot price", "calls", when=FVCORE)]
    error: Annotated[str, Key("why it could not count", when=FAILED)]


class OpinionsRecord(TypedDict):
    """One test image on its own route, counted by dyncomp and by two others."""

    macs: Annotated[int, Key("our count", "MACs")]
    flops: Annotated[int, Key("twice `macs`", "FLOPs")]
    by_operator: Annotated[Mapping[str, int], Key("our count by operator", "MACs")]
    torch: Annotated[OpinionRecord, Key("what `torch.utils.flop_counter` says")]
    fvcore: Annotated[OpinionRecord, Key("what `fvcore.nn.FlopCountAnalysis` says")]


class Answers(TypedDict, total=False):
    """What a trained network answers, and by which routes."""

    params: Annotated[int, Key("parameters of the network", when=FINISHED)]
    image_size: Annotated[
        int | None, Key("side of a test image; null: not known", "pixels", when=FINISHED, before=None)
    ]
    sites: Annotated[
        int,
        Key("places where the network decides something", when=FINISHED, before=lambda cell: len(cell["gates"])),
    ]
    images: Annotated[int, Key("how many test images there are", "images", when=FINISHED)]
    top1: Annotated[float, Key("top-1 accuracy on the test images", "%", when=FINISHED)]
    top1_calibration: Annotated[float, Key("top-1 accuracy on the calibration images", "%", when=FINISHED)]
    routes: Annotated[
        int, Key("distinct routes of the test images; 1 where every image takes the same", "routes", when=FINISHED)
    ]
    routes_effective: Annotated[
        float | None,
        Key("2 to the entropy of the test images' routes in bits; null: not known", "routes", FINISHED, None),
    ]
    class_p_value: Annotated[
        float | None,
        Key(
            "chance that decisions that know nothing of the class share as much information with it, by a permutation "
            "test; null: not known, or nothing is decided",
            "0 to 1",
            when=FINISHED,
            before=None,
        ),
    ]
    gates: Annotated[
        Sequence[GateRecord], Key("gates of units that may be left out; none where all always run", when=FINISHED)
    ]
    mixtures: Annotated[
        Sequence[MixtureRecord], Key("units that all run, by weights of the image", when=FINISHED, before=())
    ]
    gallery: Annotated[
        Sequence[GalleryRecord],
        Key("the cheapest and the dearest test images; none where all cost the same", when=FINISHED, before=()),
    ]
    route_exchange_top1: Annotated[
        float | None,
        Key(
            "top-1 accuracy when every test image goes another one's route; null where nothing is decided",
            "%",
            FINISHED,
        ),
    ]


class Computed(Spending, total=False):
    """What a trained network computes: priced by its decisions, executed by operators, and what others count."""

    second_opinions: Annotated[
        OpinionsRecord, Key("what other counters say of one test image", when=FINISHED, before=LEFT_OUT)
    ]
    macs_always: Annotated[int, Key("what runs for every image, gates left out", "MACs", when=FINISHED)]
    macs_full: Annotated[int, Key("of an image with every unit on", "MACs", when=FINISHED)]
    macs_gates: Annotated[int, Key("of all gates, each run once for an image", "MACs", when=FINISHED)]
    macs_static: Annotated[int, Key("of the plain backbone, for an image", "MACs", when=FINISHED)]
    speedup_claimed: Annotated[float, Key("`macs_static / macs`", "ratio", when=FINISHED)]
    priced_macs: Annotated[
        int, Key("of all test images together, priced by the gates' decisions", "MACs", when=FINISHED)
    ]
    executed_macs: Annotated[
        int,
        Key(
            "of the operators and generated code that ran for all test images in the network that is timed, by the "
            "decisions that are priced; not `priced_macs`: a bug; `warnings` say where its own decisions differ",
            "MACs",
            when=FINISHED,
        ),
    ]
    executed_by_operator: Annotated[
        Mapping[str, int],
        Key("`executed_macs` by operator; `dyncomp.convolution` is generated code", "MACs", when=FINISHED),
    ]
    speedup_executed: Annotated[float, Key("`macs_static * images / executed_macs`", "ratio", when=FINISHED)]
    uncounted_operators: Annotated[
        Sequence[str], Key("operators that ran and have no known cost: `macs` is without them", when=FINISHED)
    ]
    uncounted_calls: Annotated[
        Mapping[str, int],
        Key("how often they ran over the test images", "calls", when=FINISHED, before={}),
    ]


class Chosen(TypedDict, total=False):
    """Ways and settings that a trained network can be used in."""

    tuned: Annotated[
        Mapping[str, str],
        Key(
            "which way of computing was the fastest for a shape, of those that were tried",
            when=FINISHED,
            before=LEFT_OUT,
        ),
    ]
    points: Annotated[Sequence[PointRecord], Key("operating points, the default first", when=FINISHED, before=())]
    streams: Annotated[
        StreamsRecord | None,
        Key("how streams of frames are judged; null where images are no frames", when=FINISHED, before=None),
    ]


class Figures(Answers, Computed, Chosen, total=False):
    """What a trained network does on the splits; it follows from the weights and the data."""


Warnings = Annotated[Sequence[str], Key("what to know of the numbers: gates that never vary, for example")]


class Measured(Figures, total=False):
    """The figures of a network with what to know of them."""

    warnings: Warnings
