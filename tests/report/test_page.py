"""The page: whole, offline, safe against what records hold."""

from __future__ import annotations

import csv
import json
import re
import subprocess
import sys
from collections.abc import Sequence
from html.parser import HTMLParser
from typing import Any

import numpy as np
import pytest

from dyncomp.errors import OutputError
from dyncomp.report import results, words, write_report
from dyncomp.report.content import Content, content
from dyncomp.report.details import detail
from dyncomp.report.figures import figures
from dyncomp.report.gates import HeatMap, heat_map
from dyncomp.report.page import html, markdown
from dyncomp.report.plotdata import Figure, colours
from dyncomp.report.reading import read
from dyncomp.report.table import results_of
from dyncomp.store import RecordWarning, Store
from dyncomp.store.schema import CellRecord
from tests.records import ENVIRONMENT, failed_cell, gate_rows, skipnet_cell, static_cell, timing

EVIL = "<script>alert('1')</script>\"'&{{ 7 * 7 }}|`*"


class Page(HTMLParser):
    """Tags with their attributes, and the text outside scripts and styles."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[str] = []
        self.text = ""
        self.inside = ""
        self.feed(text)
        self.text = " ".join(self.text.split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self.inside = tag
        if tag == "script":
            self.scripts.append("")

    def handle_endtag(self, tag: str) -> None:
        self.inside = ""

    def handle_data(self, data: str) -> None:
        if self.inside == "script":
            self.scripts[-1] += data
        elif self.inside != "style":
            self.text += data


def page_of(store: Store) -> Page:
    """The page alone, without the plots' files."""
    return Page(html(*said_of(store)))


def said_of(store: Store) -> tuple[Content, list[Figure], dict[str, str]]:
    reading = read(store)
    frame = results_of(reading)
    return content(reading, frame), figures(reading, frame), colours(frame["method"])


def markdown_of(store: Store) -> str:
    return markdown(*said_of(store)[:2])


def test_same_records_same_files(store: Store) -> None:
    files = write_report(store)
    names = [str(path.relative_to(store.folder)) for path in files]
    plots = ("accuracy_macs", "accuracy_latency", "speedup", "macs_per_image")
    drawn = [f"plots/{plot}.{form}" for plot in plots for form in ("png", "svg")]
    assert names == ["results.csv", "report.md", "report.html", *drawn]
    assert all(path.stat().st_size > 0 for path in files)
    links = re.findall(r"\]\((plots/[^)]+|results[^)]+)\)", (store.folder / "report.md").read_text(encoding="utf-8"))
    assert sorted(links) == sorted([name for name in names if name.endswith((".png", ".csv"))])
    with (store.folder / "results.csv").open(newline="") as file:
        assert len(list(csv.reader(file))) == 1 + len(results(store))
    first = {path: path.read_bytes() for path in files}
    assert {path: path.read_bytes() for path in write_report(store)} == first


def test_page_says_what_the_words_say(store: Store) -> None:
    page = page_of(store)
    text = markdown_of(store)
    for sentence in words(store):
        assert str(sentence) in page.text
        assert sentence.text.split(";")[0].replace("_", "\\_") in text
    for told in (
        "gate blocks.0.0 is always on",
        "arXiv:1711.09485",
        "A Processor",
        "a bootstrap over blocks of rounds",
        "2 * MACs",
    ):
        assert told in page.text


def test_page_is_one_file_that_needs_no_network(store: Store) -> None:
    page = page_of(store)
    loading = {"src", "srcset", "data", "poster", "action", "formaction", "background", "ping", "manifest"}
    for tag, attributes in page.tags:
        if tag == "img":
            assert (attributes.pop("src") or "").startswith("data:image/png;base64,")
        assert not loading & set(attributes), tag
        assert tag not in ("link", "iframe", "object", "embed", "base")
        if "href" in attributes and tag == "use":
            assert (attributes["href"] or "").startswith("#")
        elif "href" in attributes:
            assert tag == "a"
            assert (attributes["href"] or "").startswith("https://arxiv.org/abs/")
    styles = re.findall(r"<style>.*?</style>", html(*said_of(store)), flags=re.S)
    assert not re.search(r"url\(|@import", "".join(styles))
    assert len(page.scripts) == 1
    assert "fetch(" not in page.scripts[0]


def test_the_page_has_every_plot_once(store: Store) -> None:
    drawn = [attributes["data-plot"] for _, attributes in page_of(store).tags if "data-plot" in attributes]
    overviews = ["accuracy_latency", "accuracy_latency-1", "accuracy_macs", "macs_per_image", "speedup"]
    assert sorted(drawn) == [*overviews, *sorted(f"training-{cell['key']}" for cell in finished(store))]


def finished(store: Store) -> list[CellRecord]:
    return [cell for cell in store.cells() if cell["status"] == "ok"]


PICTURE = "iVBORw0KGgo="


def gallery_of(classes: Sequence[str]) -> list[dict[str, Any]]:
    return [
        {"image": place, "end": end, "macs": 1_000 + place, "label": classes[0], "prediction": answered, "png": PICTURE}
        for place, (end, answered) in enumerate([("cheapest", classes[0]), ("dearest", classes[1])])
    ]


def test_a_cell_in_full_has_gates_by_class_pictures_and_its_training(empty: Store) -> None:
    classes = ["cat", EVIL]
    rows = [{"class": name, "images": 180, "macs": 1e6, "flops": 2e6, "top1": 97.0} for name in classes]
    weights = {"site": "layers.0", "unit": 1, "weight": 0.5, "by_class": [0.25, 0.75]}
    key = skipnet_cell(empty, macs_by_class=rows, gallery=gallery_of(classes), mixtures=[weights])
    record = next(empty.folder.glob(f"records/{key}.json"))
    written = json.loads(record.read_text())
    written["gates"][0]["by_class"] = [0.125, 1.0]
    record.write_text(json.dumps(written))
    reading = read(empty)
    (cell,) = reading.cells
    found = detail(cell, reading.images(key))
    assert found.heat == HeatMap(
        tuple(classes),
        (
            ("blocks.0 unit 0", (("12", 0.125), ("100", 1.0))),
            ("layers.0 unit 1, weight", (("0.25", 1 / 3), ("0.75", 1.0))),
        ),
    )
    frame = reading.images(key)
    assert frame is not None
    assert [(one.end, one.right) for one in found.gallery] == [("cheapest", True), ("dearest", False)]
    assert found.gallery[1].text == f"1.00 k MACs (2.00 k FLOPs): cat, answered {EVIL}, route {frame['route'][1]}"
    assert found.training is not None
    assert [curve.name for curve in found.training.curves][:3] == [
        "loss",
        "multiply-adds asked for, of the plain network's",
        "gate blocks.0",
    ]
    assert found.training.begins == ((0.0, "train"),)
    page = page_of(empty)
    shown = [attributes["src"] for tag, attributes in page.tags if tag == "img"]
    assert shown == [f"data:image/png;base64,{PICTURE}"] * 2
    assert len(page.scripts) == 1


def test_too_many_classes_have_no_heat_map(empty: Store) -> None:
    rows = [{"class": str(name), "images": 1, "macs": 1e6, "flops": 2e6, "top1": 97.0} for name in range(30)]
    skipnet_cell(empty, macs_by_class=rows)
    (cell,) = read(empty).cells
    assert heat_map(cell) is None


@pytest.mark.parametrize("field", ["spec", "method", "paper", "backbone", "dataset", "budget", "device", "git_commit"])
def test_text_from_a_record_stays_text(empty: Store, field: str) -> None:
    static_cell(empty)
    skipnet_cell(empty, **{field: EVIL})
    page = page_of(empty)
    assert len(page.scripts) == 1
    assert "alert(" not in page.scripts[0]
    assert not any("onerror" in attributes for _, attributes in page.tags)
    text = markdown_of(empty)
    assert "<script" not in text


def test_errors_warnings_gates_and_stages_stay_text(empty: Store) -> None:
    (gate,) = gate_rows(np.ones((3, 1), dtype=bool), [5], 1)
    used = [{**gate, "site": EVIL}]
    stages = [{"name": EVIL, "epochs": 1, "loss_first": 1.0, "loss_last": None, "seconds": 1.0, "log": []}]
    environment = {**ENVIRONMENT, "processor": EVIL, "argv": [EVIL]}
    failed_cell(empty, error=EVIL, traceback=EVIL)
    key = static_cell(empty, gates=used, stages=stages, warnings=[EVIL], environment=environment)
    timing(empty, [key], 8, (1.0,), errors={key: EVIL})
    page = page_of(empty)
    assert len(page.scripts) == 1
    assert page.text.count("alert('1')") >= 8
    assert "<script" not in markdown_of(empty)
    assert "{{ 7 * 7 }}" in page.text


def test_script_in_a_paper_is_no_link(empty: Store) -> None:
    static_cell(empty, paper="javascript:alert(1)")
    assert not [tag for tag, _ in page_of(empty).tags if tag == "a"]


def test_failures_stand_before_everything_else(store: Store) -> None:
    key = results(store).query("method == 'skipnet'")["key"].iloc[0]
    timing(store, [], 256, (), errors={key: "OutOfMemoryError: 3 GiB"})
    text = page_of(store).text
    assert text.index("TypeError: build() takes") < text.index("What came out")
    assert text.index("seed 0, timing at batch 256: OutOfMemoryError: 3 GiB") < text.index("What came out")


def test_corrupt_record_is_named_in_the_page(store: Store) -> None:
    (store.records / "0123.json").write_text("{")
    with pytest.warns(RecordWarning, match=r"records/0123\.json"):
        page = page_of(store)
    assert "records/0123.json is skipped" in page.text


def test_uncounted_operators_are_a_warning(empty: Store) -> None:
    static_cell(empty, uncounted_operators=["aten::fft"])
    assert "operators without a known cost ran and are not in the MACs: aten::fft" in page_of(empty).text


@pytest.mark.parametrize(
    ("test", "calibration", "flag"),
    [
        (1.0, 1.0, "always on"),
        (0.0, 0.0, "always off"),
        (1.0, 0.99, "always on (test)"),
        (0.5, 0.0, "always off (calibration)"),
        (0.5, 0.5, ""),
    ],
)
def test_flag_of_a_gate(empty: Store, test: float, calibration: float, flag: str) -> None:
    (gate,) = gate_rows(np.ones((3, 1), dtype=bool), [5], 1)
    static_cell(empty, gates=[{**gate, "site": "s", "rate_test": test, "rate_calibration": calibration}])
    row = next(line for line in markdown_of(empty).splitlines() if line.startswith("| s |"))
    assert row.removesuffix("|").split(" | ")[-1].strip() == flag


def test_report_of_nothing(empty: Store) -> None:
    page = page_of(empty)
    assert "No cell has been recorded yet." in page.text
    assert "No cell has been recorded yet." in markdown_of(empty)


def test_only_failures(empty: Store) -> None:
    failed_cell(empty)
    assert "TypeError" in page_of(empty).text


def test_means_over_seeds_stand_in_the_page(seeds: Store) -> None:
    text = page_of(seeds).text
    assert "Means over seeds" in text
    assert "97.50 ± 0.56" in text
    assert "skipnet(target=0.5), cifar_resnet14 on digits, seeds 0, 1, 2" in text


def test_table_of_the_markdown_is_one(store: Store) -> None:
    results = markdown_of(store).partition("## Results")[2].partition("\n## ")[0]
    lines = [line for line in results.splitlines() if line.startswith("| static") or "| top-1 |" in line]
    assert len(lines) == 3
    assert len({line.count("|") for line in lines}) == 1


def test_unwritable_report_is_one_line(store: Store) -> None:
    (store.folder / "report.md").mkdir()
    with pytest.raises(OutputError, match=r"cannot write .*report\.md") as told:
        write_report(store)
    assert "\n" not in str(told.value)


def test_writing_a_report_imports_no_torch(store: Store) -> None:
    code = (
        "import sys; from pathlib import Path;"
        "from dyncomp.store import Store; from dyncomp.report import write_report;"
        f"write_report(Store.open(Path({str(store.folder)!r}))); print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_only_timings_that_the_numbers_come_from_are_described(empty: Store) -> None:
    static, skipnet = static_cell(empty), skipnet_cell(empty)
    for at, machine in enumerate(("the first", "the second")):
        when = f"2026-01-01T10:0{at}:00+00:00"
        where = {**ENVIRONMENT, "processor": machine}
        timing(empty, [static, skipnet], 8, [2.0, 1.0], environment=where, started_at=when)
    reading = read(empty)
    told = dict(content(reading, results_of(reading)).environment)
    assert told["processor"] == "A Processor, the second"  # the cells', and the timing's
