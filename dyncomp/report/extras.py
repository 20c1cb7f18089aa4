"""What only some records have: operating points, what was made of streams of frames, memory and energy."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

from dyncomp.report import numbers as n
from dyncomp.report.tables import Table, both, row_of
from dyncomp.store.schema import CellRecord, PointRecord, StreamsRecord

POLICIES: Mapping[Literal["gate", "finish_all", "random"], str] = {
    "gate": "the network's own judgement",
    "finish_all": "finishing every frame, without a judge",
    "random": "dropping as many frames at random, unseen",
}


def _twice(macs: float | None) -> str:
    return n.macs(None if macs is None else 2 * macs)


STREAM_FIGURES = (
    ("right of the answered", "accuracy_answered", n.percent),
    ("answered", "share_answered", lambda value: n.percent(None if value is None else 100 * value)),
    ("MACs per stream", "macs_per_stream", n.macs),
    ("FLOPs per stream", "macs_per_stream", _twice),
    ("frames to the first right answer", "frames_to_first_right", lambda value: n.fixed(value, 2)),
    ("MACs to the first right answer", "macs_to_first_right", n.macs),
    ("FLOPs to the first right answer", "macs_to_first_right", _twice),
    ("first answer right", "share_right_first_answer", lambda value: n.percent(None if value is None else 100 * value)),
    ("MACs to the first answer", "macs_to_first_answer", n.macs),
    ("FLOPs to the first answer", "macs_to_first_answer", _twice),
)


def point_table(points: Sequence[PointRecord], static_macs: float | None) -> Table | None:
    """One row per operating point: accuracy and cost on the test images at thresholds from the calibration split."""
    rows = [row_of(*_point(point, static_macs)) for point in points]
    headers = (
        "operating point",
        "kind",
        "top-1",
        "MACs",
        "FLOPs",
        "of static",
        "leave at each exit, the rest at the end",
    )
    return Table(headers, tuple(rows)) if rows else None


def _point(point: PointRecord, static_macs: float | None) -> Iterable[tuple[str, Any]]:
    yield str(point["name"]), str(point["name"])
    yield str(point["kind"]), str(point["kind"])
    yield n.percent(point["top1"]), point["top1"]
    yield from both(point["macs"])
    share = 100 * point["macs"] / static_macs if static_macs else None
    yield n.fixed(share, 0, " %"), share
    leaves = ", ".join(n.fixed(100 * share, 0, " %") for share in point["leaves"])
    yield leaves or n.MISSING, leaves


def stream_table(streams: StreamsRecord | None) -> Table | None:
    """One row per policy: what the network's own judgement of frames makes of streams, and what two others do."""
    if not streams:
        return None
    rows = []
    for name, text in POLICIES.items():
        policy: Mapping[str, Any] = streams[name]
        rows.append(row_of((text, text), *((write(policy[key]), policy[key]) for _, key, write in STREAM_FIGURES)))
    return Table(("policy", *(header for header, _, _ in STREAM_FIGURES)), tuple(rows))


def resources(cell: CellRecord) -> Iterable[tuple[str, str]]:
    """Memory and energy, with the batch size that each is for, as names and texts; nothing of an old record."""
    if "memory_batch_size" in cell:
        batch, training = cell["memory_batch_size"], cell["memory_batch_size_training"]
        yield "memory of the parameters", _mib(cell["params_mib"])
        yield f"memory of inference, batch {batch}", _mib(cell["memory_mib_inference"])
        yield f"of it activations, batch {batch}", _mib(cell["activation_mib"])
        yield f"memory of training, batch {training}", _mib(cell["memory_mib_training"])
        yield "memory is the", f"{cell['memory_of']}; activations: tensors alive at once in a pass"
    if error := cell.get("memory_error"):
        yield "memory not measured", error
    if "energy_of" in cell:
        joules = cell["energy_j_per_image"]
        told = f"{n.significant(joules)} J" if joules is not None else ""
        yield f"energy of an image, batch {cell['energy_batch_size']}", f"{told} {cell['energy_of']}".strip()


def _mib(value: Any) -> str:
    return n.MISSING if n.missing(value) else f"{n.significant(value)} MiB"
