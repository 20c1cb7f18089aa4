"""The descriptions of records: what fits them, what does not, and that they are what is documented and committed."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args, is_typeddict

import numpy as np
import pytest

from dyncomp.store import RecordWarning, Store
from dyncomp.store.schema import CellRecord, ConfigRecord, Fit, ImageColumns, Key, TimingRecord, keys_of
from dyncomp.store.schema.key import ALWAYS, LEFT_OUT, NEVER_ABSENT
from dyncomp.store.schema.page import page
from tests.records import CONFIG, cell_record, identified, make_store, timing

ROOT = Path(__file__).parents[2]
KINDS: Mapping[str, Any] = {"cell": CellRecord, "timing": TimingRecord, "config": ConfigRecord, "images": ImageColumns}
IMAGES = {"label": np.arange(3), "prediction": np.array([0, 1, 0]), "macs": np.array([4, 4, 5]), "route": ["", "", ""]}
FILES = sorted(file for name in ("records/*.json", "config.json") for file in (ROOT / "reports").glob(f"*/{name}"))


def parts(hint: Any) -> set[Any]:
    """All described parts that a type consists of, itself included."""
    inner = [one for one, _ in keys_of(hint).values()] if is_typeddict(hint) else get_args(hint)
    return ({hint} if is_typeddict(hint) else set()).union(*map(parts, inner))


PARTS = sorted(set().union(*map(parts, KINDS.values())), key=lambda part: part.__name__)


def kind_of(record: Mapping[str, Any]) -> Any:
    return KINDS[record.get("kind", "config")]


@pytest.mark.parametrize("part", PARTS, ids=lambda part: part.__name__)
def test_every_key_is_described(part: Any) -> None:
    for name, (_, key) in keys_of(part).items():
        assert isinstance(key, Key), name
        assert key.meaning, name
        assert "|" not in key.meaning + key.unit, name  # of a table in Markdown
        assert name not in part.__required_keys__ or key.when is ALWAYS, name


def test_stand_ins_have_the_type_that_they_stand_for() -> None:
    former = {"rate_test": 1.0, "gates": [], "macs": 1.0}
    for part in PARTS:
        for name, (hint, key) in keys_of(part).items():
            found = key.stand_in(former)
            if found not in (LEFT_OUT, NEVER_ABSENT):
                fit = Fit()
                fit._value(json.loads(json.dumps(found)), hint, name)
                assert fit.faults == [], part


def test_committed_reports_have_records() -> None:
    assert {kind_of(json.loads(file.read_bytes())) for file in FILES} == {CellRecord, TimingRecord, ConfigRecord}


@pytest.mark.parametrize("file", FILES, ids=lambda file: f"{file.parent.parent.name}/{file.stem}")
def test_a_committed_record_fits(file: Path) -> None:
    record = json.loads(file.read_bytes())
    fit = Fit.of(record, kind_of(record))
    assert (fit.faults, fit.oddities) == ([], [])
    again = Fit.of(json.loads(json.dumps(fit.record)), kind_of(record))
    assert (again.faults, again.oddities) == ([], [])


def test_the_records_of_tests_fit(tmp_path: Path) -> None:
    store = make_store(tmp_path / "out")
    assert len(store.cells()) == 4  # an odd one is a warning, and warnings are errors here
    assert len(store.timings()) == 2
    assert Fit.of({"dyncomp_output": 1, **CONFIG}, ConfigRecord).faults == []


def changed(record: Mapping[str, Any], place: str, value: Any) -> dict[str, Any]:
    """A record with another value at `a.b`; without the key where the value is None."""
    name, _, inner = place.partition(".")
    copy = dict(record)
    if inner:
        copy[name] = changed(copy[name], inner, value)
    elif value is None:
        del copy[name]
    else:
        copy[name] = value
    return copy


@pytest.mark.parametrize(
    ("place", "value", "told"),
    [
        ("macs", None, r"is skipped \(ValueError: no macs\)"),
        ("macs", "many", r"is skipped \(ValueError: macs is no number\)"),
        ("seed", 0.5, r"seed is no whole number"),
        ("sites", True, r"sites is no whole number"),
        ("environment.torch", None, r"no environment\.torch"),
        ("environment", "here", r"environment is no environment"),
        ("identity.source.method", 5, r"identity\.source\.method is no text"),
        ("stages", [{}], r"no stages\[0\]\.name; no stages\[0\]\.epochs; .*; and 3 more"),
        ("role", "king", r"role is no `source` or `static`"),
        ("uncounted_calls", {"aten.x": "few"}, r"uncounted_calls\[aten\.x\] is no whole number"),
        ("params_mib", 1.0, r"is read, but: params_mib stands only where memory was measured"),
        ("colour", "red", r"is read, but: unknown key colour"),
        ("identity.colour", "red", r"unknown key identity\.colour"),
    ],
)
def test_what_does_not_fit_is_told_by_name(tmp_path: Path, place: str, value: Any, told: str) -> None:
    store = Store.create(tmp_path / "out", CONFIG)
    record = changed(cell_record("static", IMAGES, []), place, value)
    store.write_cell(record, IMAGES)
    with pytest.warns(RecordWarning, match=rf"records/{record['key']}\.json .*{told}") as warned:
        found = store.cell(record["key"])
    assert "\n" not in str(warned[0].message)
    assert (found is None) == ("skipped" in str(warned[0].message))


def test_a_failed_cell_has_no_figures(tmp_path: Path) -> None:
    store = Store.create(tmp_path / "out", CONFIG)
    record = identified("static", status="failed", error="E: e")
    store.write_cell(record, None)
    assert store.cell(record["key"]) == {"schema": 1, "kind": "cell", **record}
    store.write_cell({**record, "top1": 5.0}, None)
    with pytest.warns(RecordWarning, match="top1 stands only where the cell is `ok`"):
        store.cell(record["key"])


LATER = ("control_of", "sources", "jobs", "sites", "macs_by_class", "points", "streams", "second_opinions", "tuned")


def test_a_record_of_a_former_version_is_read_with_stand_ins_and_kept_as_it_is(tmp_path: Path) -> None:
    store = Store.create(tmp_path / "out", CONFIG)
    whole = cell_record("static", IMAGES, [])
    former = {name: value for name, value in whole.items() if name not in LATER}
    store.write_cell(former, IMAGES)
    read = store.cell(whole["key"])
    assert read is not None
    assert [read[name] for name in LATER[:-2]] == ["", {}, 1, 0, (), (), None]
    assert not {"second_opinions", "tuned"} & set(read)
    store.add_to_cell(whole["key"], {"role": "method"})
    written = json.loads((store.records / f"{whole['key']}.json").read_bytes())
    assert written == json.loads(json.dumps({"schema": 1, "kind": "cell", **former, "role": "method"}))


def test_a_timing_of_a_former_version_is_read(tmp_path: Path) -> None:
    store = Store.create(tmp_path / "out", CONFIG)
    later = ("forms", "batches_per_round", "distinct_rounds", "verdicts", "not_compiled", "load", "wanted", "gc")
    former = {name: value for name, value in timing(store, ["a"], 8, (1.0,)).items() if name not in later}
    store.write_timing({**former, "form": "sparse", "compiled": False})
    (read,) = store.timings()
    assert [read[name] for name in later[:5]] == [{}, 1, 0, {}, {}]


def test_the_page_is_made_of_the_descriptions() -> None:
    text = (ROOT / "docs" / "records.md").read_text(encoding="utf-8")
    assert text == page(), "python -m dyncomp.store.schema.page > docs/records.md"
    headings = [line.lstrip("# ").lower().replace(" ", "-") for line in text.splitlines() if line.startswith("#")]
    assert len(set(headings)) == len(headings)
    links = {piece.partition(")")[0] for piece in text.split("](#")[1:]}
    assert links <= set(headings)
    for kind in KINDS.values():
        for name in keys_of(kind):
            assert f"\n| `{name}` | " in text
