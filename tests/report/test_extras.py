"""Tables of operating points and of streams; memory and energy in words."""

from __future__ import annotations

from dyncomp.report.extras import point_table, resources, stream_table
from dyncomp.report.numbers import MISSING
from dyncomp.store.schema import PolicyRecord, StreamsRecord, keys_of


def texts(table: object) -> list[list[str]]:
    return [[cell.text for cell in row] for row in table.rows]  # type: ignore[attr-defined]


def test_no_points_and_no_streams_are_no_tables() -> None:
    assert point_table((), 100.0) is None
    assert stream_table(None) is None


def test_points_are_told_with_their_share_of_static() -> None:
    point = {"name": "calibrated", "kind": "default", "top1": 91.25, "macs": 2.5e6, "leaves": [0.6, 0.4]}
    (row,) = texts(point_table([point], 1e7))
    assert row == ["calibrated", "default", "91.2 %", "2.50 M", "5.00 M", "25 %", "60 %, 40 %"]
    assert [cell.sort for cell in point_table([point], 1e7).rows[0]][2:6] == [91.25, 2.5e6, 5e6, 25.0]  # type: ignore[union-attr]


def test_every_policy_has_its_row_and_what_is_missing_is_a_dash() -> None:
    figures = dict.fromkeys(keys_of(PolicyRecord))
    figures |= {"accuracy_answered": 97.0, "share_answered": 0.5, "macs_per_stream": 8e6}
    table = stream_table(dict.fromkeys(keys_of(StreamsRecord), figures))
    assert table is not None
    gate, _, random = texts(table)
    assert (gate[0], random[0]) == ("the network's own judgement", "dropping as many frames at random, unseen")
    assert gate[1:] == ["97.0 %", "50.0 %", "8.00 M", "16.0 M", *[MISSING] * 6]
    assert len(gate) == len(table.headers)


MEMORY = {
    "params_mib": 0.25,
    "activation_mib": 1.0,
    "memory_mib_inference": 11.25,
    "memory_batch_size": 64,
    "memory_mib_training": None,
    "memory_batch_size_training": 128,
    "memory_of": "rise of something",
    "memory_error": "training: no room",
}


def test_memory_stands_with_its_batch_size_and_with_what_it_is() -> None:
    assert dict(resources(MEMORY)) == {
        "memory of the parameters": "0.250 MiB",
        "memory of inference, batch 64": "11.2 MiB",
        "of it activations, batch 64": "1.00 MiB",
        "memory of training, batch 128": MISSING,
        "memory is the": "rise of something; activations: tensors alive at once in a pass",
        "memory not measured": "training: no room",
    }
    assert not list(resources({"key": "an old record"}))


def test_energy_is_told_or_why_not() -> None:
    told = {"energy_batch_size": 64, "energy_j_per_image": 0.0123, "energy_of": "RAPL (package-0)"}
    assert list(resources(told)) == [("energy of an image, batch 64", "0.0123 J RAPL (package-0)")]
    absent = {"energy_batch_size": 64, "energy_j_per_image": None, "energy_of": "not measured: no counter"}
    assert list(resources(absent)) == [("energy of an image, batch 64", "not measured: no counter")]
