"""The record of a timing: networks of one comparison, timed together at one batch size."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Literal, TypedDict

from dyncomp.store.schema.key import LEFT_OUT, Key, When
from dyncomp.store.schema.machine import EnvironmentRecord

TIMED = When("any network could be timed", lambda timing: bool(timing.get("samples_ms")))
FORMER = When("records of former versions, whose networks had one form", None)


class WantedRecord(TypedDict):
    """When the timing was to end: at either of these."""

    width: Annotated[float, Key("all ratios' intervals this narrow", "share of the ratio")]
    seconds: Annotated[float, Key("time for one network", "s")]


class FormRecord(TypedDict):
    """The form in which a network was timed."""

    form: Annotated[str, Key("`sparse` or `dense`, `_compiled` behind it where torch.compile made it")]
    graph_breaks: Annotated[int | None, Key("pieces of the compiled form, less one; null where nothing was compiled")]
    not_folded: Annotated[str | None, Key("why batch norms were not folded into convolutions; null: they were")]
    batch_norms: Annotated[int, Key("batch norms that are left")]


class LoadRecord(TypedDict):
    """Processors that were busy during the timing, on average; null where the system does not tell."""

    processors: Annotated[int, Key("processors that the timing may run on", "processors")]
    own: Annotated[float | None, Key("busy with the timing", "processors")]
    others: Annotated[float | None, Key("busy with other programs", "processors")]
    average: Annotated[float | None, Key("the kernel's load average at the end")]


class SettingRecord(TypedDict, total=False):
    """How the networks' processes were set."""

    threads: Annotated[int, Key("threads of torch in each process")]
    affinity: Annotated[
        Sequence[int] | None,
        Key("processors that they may run on; null where the system does not tell", when=TIMED, before=LEFT_OUT),
    ]
    gc: Annotated[bool, Key("whether Python's garbage collection was on", when=TIMED, before=LEFT_OUT)]
    allocator: Annotated[str, Key("how the C library's allocator was set", when=TIMED, before=LEFT_OUT)]
    clock: Annotated[str, Key("which clock measured", when=TIMED)]
    warm_up_ms: Annotated[
        float, Key("how long a network ran before it was timed, in each turn", "ms", when=TIMED, before=LEFT_OUT)
    ]


class TimingContent(SettingRecord):
    """All that a run says of a timing."""

    key: Annotated[str, Key("the timing's name, a hash of cells, batch size, forms and precision", "16 hex digits")]
    cells: Annotated[Sequence[str], Key("keys of the cells that were timed")]
    wanted: Annotated[WantedRecord, Key("when the timing was to end", before=LEFT_OUT)]
    batch_size: Annotated[int, Key("images of a batch", "images")]
    device: Annotated[str, Key("the kind of device")]
    forms: Annotated[Mapping[str, FormRecord], Key("what each network's form is, by name", before={})]
    layout: Annotated[str, Key("how images lie in memory")]
    dtype: Annotated[str, Key("the kind of numbers")]
    processes: Annotated[str, Key("how the networks shared the machine", before=LEFT_OUT)]
    seed: Annotated[int, Key("of the order of the test images")]
    batches_per_round: Annotated[int, Key("batches that a network runs in a round", "batches", before=1)]
    distinct_rounds: Annotated[
        int, Key("rounds after which the same batches come again; 0: not known", "rounds", before=0)
    ]
    rounds: Annotated[Mapping[str, int], Key("rounds that each network has run", "rounds", before=LEFT_OUT)]
    samples_ms: Annotated[
        Mapping[str, Sequence[float]],
        Key("time of every batch, by network, in order: `batches_per_round` of each round", "ms"),
    ]
    reference: Annotated[str | None, Key("the plain backbone, which has a turn beside every two others", before=None)]
    beside_ms: Annotated[
        Mapping[str, Sequence[float]],
        Key(
            "time of every batch in the reference's turn beside the network's own, by network, in order",
            "ms",
            before={},
        ),
    ]
    verdicts: Annotated[
        Mapping[str, str],
        Key("by network, `VALID`, or `INVALID: ` and why its milliseconds cannot be relied on", before={}),
    ]
    load: Annotated[LoadRecord, Key("what else ran", before=LEFT_OUT)]
    seconds: Annotated[float, Key("how long the rounds lasted", "s", before=LEFT_OUT)]
    errors: Annotated[Mapping[str, str], Key("networks that could not be timed, and why")]
    not_compiled: Annotated[Mapping[str, str], Key("forms that torch.compile could not make, and why", before={})]
    environment: Annotated[EnvironmentRecord, Key("versions and machine")]
    started_at: Annotated[str, Key("when it began; the latest of a batch size counts", "UTC, ISO 8601")]


class _Former(TypedDict, total=False):
    form: Annotated[str, Key("the one form in which all networks were timed", when=FORMER)]
    compiled: Annotated[bool, Key("whether torch.compile made it", when=FORMER)]


class TimingRecord(TimingContent, _Former):
    """One timing of several cells; `records/timing-KEY.json`.

    Networks are named by the key of their cell, in another form than the sparse one with `.` and the form behind it.
    """

    schema: Annotated[int, Key("the format's version; a record of a higher one is not read")]
    kind: Annotated[Literal["timing"], Key("what the file is a record of")]
