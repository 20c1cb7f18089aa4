"""What a trained network takes of the machine: time by operator, memory, energy.

Measured after the training, when nothing else runs; controls are left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, TypedDict

from dyncomp.store.schema.key import LEFT_OUT, Key, beside
from dyncomp.store.schema.machine import EnvironmentRecord

TIMES = beside("operators", "resources were measured: of finished cells but controls, at the end of a run")
MEMORY = beside("memory_of", "memory was measured: with the resources, where nothing failed before")
ENERGY = beside("energy_of", "energy was measured: with the resources, where nothing failed before")


class OperatorRecord(TypedDict):
    """One operator in all of its calls."""

    operator: Annotated[str, Key("its name, such as `aten.convolution`")]
    calls: Annotated[int, Key("how often it ran", "calls")]
    share: Annotated[float, Key("of the time inside all operators", "0 to 1")]


class SharesRecord(TypedDict):
    """Shares of the time inside operators; together 1."""

    priced: Annotated[float, Key("operators that have MACs", "0 to 1")]
    free: Annotated[float, Key("operators that have none by convention, such as normalisation and copies", "0 to 1")]
    unknown: Annotated[float, Key("operators without a known cost", "0 to 1")]


class TopRecord(TypedDict):
    """The operators that take most time, by how the convention sees them."""

    priced: Annotated[Sequence[OperatorRecord], Key("the six with MACs that take most")]
    free: Annotated[Sequence[OperatorRecord], Key("the six free ones that take most")]
    unknown: Annotated[Sequence[OperatorRecord], Key("all without a known cost")]


class OperatorsRecord(TypedDict):
    """Time inside operators on test images in the sparse form, by torch's profiler."""

    batch_size: Annotated[int, Key("images of a batch", "images")]
    batches: Annotated[int, Key("batches that were run", "batches")]
    wall_ms: Annotated[float, Key("the passes over all batches, under the profiler", "ms")]
    operators_ms: Annotated[float, Key("the part of it inside operators", "ms")]
    shares: Annotated[SharesRecord, Key("how it is shared out")]
    top: Annotated[TopRecord, Key("which operators take it")]


class PartsRecord(TypedDict):
    """The parts that the time of a batch is made of; together `method_ms`."""

    arithmetic: Annotated[float, Key("its MACs outside gates at the plain backbone's pace", "ms")]
    pace: Annotated[float, Key("what its parts take beyond that pace with every unit on; may be negative", "ms")]
    gates: Annotated[float, Key("gates, routers, heads of exits, mixing of kernels", "ms")]
    moving: Annotated[float, Key("gathering and scattering", "ms")]
    launches: Annotated[float, Key("calls beyond those that the MACs explain, at least", "ms")]
    smaller_batches: Annotated[float, Key("what is left: parts of a batch run less efficiently than all of it", "ms")]


class GapRecord(TypedDict):
    """Where the time of a batch goes, against the plain backbone on the same batches."""

    batch_size: Annotated[int, Key("images of a batch", "images")]
    cycles: Annotated[int, Key("rounds over all batches")]
    verdict: Annotated[str, Key("`VALID`, or `INVALID: ` and why", before=LEFT_OUT)]
    static_ms: Annotated[float, Key("the plain backbone's time of a batch", "ms")]
    method_ms: Annotated[float, Key("the method's", "ms")]
    parts_ms: Annotated[PartsRecord, Key("what `method_ms` is made of")]
    stopwatch_slowdown: Annotated[float, Key("time under the stopwatch by time without it", "ratio")]
    call_us: Annotated[float, Key("a call that does nothing", "microseconds")]
    calls: Annotated[float, Key("operators and generated code that the method calls for a batch", "calls")]
    calls_static: Annotated[float, Key("operators and generated code that the plain backbone calls", "calls")]
    macs: Annotated[float, Key("mean of an image of these batches", "MACs")]
    flops: Annotated[float, Key("twice `macs`", "FLOPs")]


class TimeFigures(TypedDict, total=False):
    """Where a trained network's time goes; in the form in which it is timed."""

    operators: Annotated[OperatorsRecord | None, Key("time by operator; null where `time_error` says why", when=TIMES)]
    gaps: Annotated[
        Sequence[GapRecord] | None,
        Key("time against the plain backbone, by batch size; none of itself, null where there is none", when=TIMES),
    ]
    time_error: Annotated[str | None, Key("what failed when resources were measured; null: nothing", when=TIMES)]


class MemoryFigures(TypedDict, total=False):
    """The memory that a network takes."""

    memory_batch_size: Annotated[int, Key("images of the batch in inference", "images", when=MEMORY)]
    memory_batch_size_training: Annotated[int, Key("images of the batch in training", "images", when=MEMORY)]
    memory_of: Annotated[str, Key("what is called memory here: of a process, or of the GPU's allocator", when=MEMORY)]
    params_mib: Annotated[float, Key("of the parameters", "MiB", when=MEMORY)]
    activation_mib: Annotated[
        float | None, Key("of the tensors that are alive at once in a pass; null as below", "MiB", when=MEMORY)
    ]
    memory_mib_inference: Annotated[
        float | None, Key("rise above the loaded network and batch, sparse form; null as below", "MiB", when=MEMORY)
    ]
    memory_mib_training: Annotated[
        float | None, Key("the same of steps of training; null as below", "MiB", when=MEMORY)
    ]
    memory_error: Annotated[str | None, Key("which of these could not be taken, and why; null: all were", when=MEMORY)]


class EnergyFigures(TypedDict, total=False):
    """The energy that a network takes."""

    energy_j_per_image: Annotated[float | None, Key("mean of a test image; null where no counter is", "J", when=ENERGY)]
    energy_batch_size: Annotated[int, Key("images of a batch", "images", when=ENERGY)]
    energy_of: Annotated[str, Key("the counter and what it includes; or why there is none", when=ENERGY)]


class Taken(MemoryFigures, EnergyFigures, total=False):
    """Memory and energy."""


class Resources(TimeFigures, Taken, total=False):
    """What a trained network takes of the machine, measured when nothing else runs."""

    resources_at: Annotated[str, Key("when that was measured", "UTC, ISO 8601", when=TIMES)]
    resources_environment: Annotated[EnvironmentRecord, Key("versions and machine of that", when=TIMES)]
