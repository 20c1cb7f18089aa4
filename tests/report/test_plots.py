"""The plots: their data against the table, their files against themselves, their labels against each other."""

from __future__ import annotations

import io
import itertools
import math
import re
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from dyncomp.report import plots, results
from dyncomp.report.figures import figures, slug
from dyncomp.report.inline import inline
from dyncomp.report.labels import Box, place
from dyncomp.report.plotdata import PALETTE, Bars, Curve, Curves, Figure, Histogram, Panel, Point, Scatter, colours
from dyncomp.report.plots import draw
from dyncomp.report.reading import read
from dyncomp.store import Store
from tests.records import IMAGES, MACS_STATIC, skipnet_cell, static_cell, timing


def figures_of(store: Store) -> dict[str, Figure]:
    return {figure.name: figure for figure in figures(read(store), results(store))}


def test_names_are_stable(store: Store) -> None:
    assert list(figures_of(store)) == ["accuracy_macs", "accuracy_latency", "speedup", "macs_per_image"]


def test_accuracy_against_macs_shows_the_table(store: Store) -> None:
    figure = figures_of(store)["accuracy_macs"]
    assert isinstance(figure, Scatter)
    points = {point.label: point for point in figure.panels[0].points}
    frame = results(store).drop_duplicates("key").set_index("spec")
    assert list(points) == ["static", "condconv", "skipnet(target=0.5)"]
    for spec, point in points.items():
        assert point.x == pytest.approx(frame.loc[spec, "macs"] / 1e6)
        assert point.y == pytest.approx(frame.loc[spec, "top1"])
        assert math.isnan(point.y_std)
    assert [point.static for point in points.values()] == [True, False, False]
    assert figure.panels[0].x_label == "M MACs per image (mean over test images)"


def test_accuracy_against_latency_has_a_panel_per_batch_size(seeds: Store) -> None:
    figure = figures_of(seeds)["accuracy_latency"]
    assert isinstance(figure, Scatter)
    assert [panel.title for panel in figure.panels] == ["batch of 1", "batch of 64"]
    skipnet = figure.panels[1].points[-1]
    rows = results(seeds).query("method == 'skipnet' and batch_size == 64")
    assert skipnet.x == pytest.approx((1 / rows["speedup_realised"]).mean())
    assert skipnet.x_std == pytest.approx((1 / rows["speedup_realised"]).std(ddof=1))
    assert skipnet.y_std == pytest.approx(np.std([7, 9, 11], ddof=1) / IMAGES * 100)


def test_histogram_holds_every_image_of_every_seed(seeds: Store) -> None:
    figure = figures_of(seeds)["macs_per_image"]
    assert isinstance(figure, Histogram)
    assert [sum(row.counts) for row in figure.rows] == [3 * IMAGES] * 3
    assert figure.reference == pytest.approx(MACS_STATIC / 1e6)
    key = results(seeds).query("method == 'skipnet'")["key"].unique()
    macs = np.concatenate([seeds.images(k)["macs"] for k in key]) / 1e6
    low, high = figure.edges[15], figure.edges[26]
    assert sum(figure.rows[2].counts[15:26]) == np.sum((macs >= low) & (macs < high))


def test_bars_are_the_three_speedups(store: Store) -> None:
    figure = figures_of(store)["speedup"]
    assert isinstance(figure, Bars)
    frame = results(store).query("status == 'ok' and method != 'static'")
    assert figure.labels == ("condconv", "skipnet(target=0.5)")
    assert [series.kind for series in figure.series] == ["claimed", "executed", "realised", "realised"]
    assert figure.series[0].values == pytest.approx(frame.query("batch_size == 1")["speedup_claimed"])
    assert figure.series[3].values == pytest.approx(frame.query("batch_size == 64")["speedup_realised"])
    assert figure.series[3].low == pytest.approx(frame.query("batch_size == 64")["speedup_realised_low"])


def test_several_backbones_have_files_of_their_own(store: Store) -> None:
    more = {"backbone": "mobilenet_v1(width=0.5)"}
    keys = [static_cell(store, **more), skipnet_cell(store, **more)]
    timing(store, keys, 8, (3.0, 2.0))
    names = list(figures_of(store))
    assert len(names) == len(set(names)) == 8
    assert names[0] == "accuracy_macs-digits-cifar_resnet14"
    assert names[-1] == "macs_per_image-digits-mobilenet_v1-width-0.5"


def test_budgets_in_one_folder_are_told_apart(store: Store) -> None:
    skipnet_cell(store, budget="standard", errors=2)
    figure = figures_of(store)["accuracy_macs"]
    assert isinstance(figure, Scatter)
    labels = [point.label for point in figure.panels[0].points]
    assert labels[-2:] == ["skipnet(target=0.5), quick", "skipnet(target=0.5), standard"]


@pytest.mark.parametrize("make", ["untimed", "empty"])
def test_what_was_not_measured_has_no_plot(empty: Store, make: str) -> None:
    if make == "untimed":
        static_cell(empty)
    names = list(figures_of(empty))
    assert names == (["accuracy_macs", "macs_per_image"] if make == "untimed" else [])


def test_files_are_the_same_each_time_and_readable(seeds: Store) -> None:
    for figure in figures_of(seeds).values():
        colour = colours(["condconv", "skipnet"])
        first, again = draw(figure, colour), draw(figure, colour)
        assert first == again
        assert Image.open(io.BytesIO(first["png"])).width >= 1000
        assert ElementTree.fromstring(first["svg"]).tag == "{http://www.w3.org/2000/svg}svg"
        assert b"<dc:date>" not in first["svg"]


def test_no_label_is_cut_off(seeds: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    drawings = []
    monkeypatch.setattr(plots, "_saved", lambda drawn, form: drawings.append(drawn) or b"")
    for figure in figures_of(seeds).values():
        if isinstance(figure, Scatter):
            panels = [replace(panel, ladder=((1.0, 90.0), (2.0, 91.0))) for panel in figure.panels]
            figure = replace(figure, panels=tuple(panels))
        plots.draw(figure, colours(results(seeds)["method"]))
    assert drawings
    for drawing in drawings:
        drawing.canvas.draw()
        for axes in drawing.axes:
            for label in (axes.xaxis.label, axes.yaxis.label):
                box = label.get_window_extent()
                assert box.x0 >= 0 and box.x1 <= drawing.bbox.x1, label.get_text()


def panel(*ladder: tuple[float, float], costs: tuple[float, ...] = ()) -> Panel:
    points = tuple(Point("a", "a", False, cost, 90.0, math.nan, math.nan) for cost in costs)
    return Panel("", "", points, ladder)


def test_the_line_of_static_nets_leaves_out_those_that_a_cheaper_one_equals() -> None:
    ladder = ((1.0, 90.0), (2.0, 92.0), (3.0, 91.0), (4.0, 92.0), (5.0, 93.0))
    assert panel(*ladder).front == (ladder[0], ladder[1], ladder[4])
    assert panel().front == ()


@pytest.mark.parametrize(
    ("costs", "ticks"),
    [
        ((1.0, 4.9), ()),
        ((0.3, 6.0), (0.2, 0.5, 1.0, 2.0, 5.0, 10.0)),
        ((0.0, 6.0), ()),  # no place on such an axis
        ((3.0,), ()),
    ],
)
def test_costs_that_are_far_apart_have_a_logarithmic_axis(costs: tuple[float, ...], ticks: tuple[float, ...]) -> None:
    assert panel(costs=costs).ticks == pytest.approx(ticks)


def test_the_axis_is_logarithmic_in_files_and_in_the_page(seeds: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    figure = figures_of(seeds)["accuracy_latency"]
    assert isinstance(figure, Scatter)
    far = replace(figure, panels=tuple(replace(one, ladder=((0.1, 90.0), (400.0, 91.0))) for one in figure.panels))
    drawings = []
    monkeypatch.setattr(plots, "_saved", lambda drawn, form: drawings.append(drawn) or b"<svg/>")
    for of, scale in ((figure, "linear"), (far, "log")):
        for draws in (plots.draw, plots.svg):
            draws(of, colours(results(seeds)["method"]))
            assert {axes.get_xscale() for axes in drawings[-1].axes} == {scale}


def test_text_from_records_is_not_taken_for_mathematics(empty: Store) -> None:
    static_cell(empty)
    skipnet_cell(empty, spec="skipnet(name='$\\\\frac{')")
    for figure in figures_of(empty).values():
        assert draw(figure, colours(["skipnet"]))["png"].startswith(b"\x89PNG")


def test_colours_do_not_depend_on_the_order() -> None:
    names = ["skipnet", "condconv", "lkam"]
    assert colours(names) == colours(reversed(names)) == dict(zip(sorted(names), PALETTE, strict=False))
    assert len(set(PALETTE)) == len(PALETTE)
    assert len(colours(f"m{number}" for number in range(30))) == 30


def svg_of(figure: Figure | Curves) -> ElementTree.Element:
    return ElementTree.fromstring(inline(figure, colours(["condconv", "skipnet"])))


def titles(element: ElementTree.Element) -> list[str]:
    return [title.text or "" for title in element.iter("title")]


def test_marks_of_the_page_are_named_and_tell_the_numbers_of_the_table(seeds: Store) -> None:
    drawn = figures_of(seeds)
    frame = results(seeds).query("status == 'ok' and method != 'static'").groupby("spec")
    specs = {"static", "condconv", "skipnet(target=0.5)"}
    for name in ("accuracy_macs", "macs_per_image"):
        svg = svg_of(drawn[name])
        assert {element.get("data-spec") for element in svg.iter()} - {None} == specs
    scatter, bars = svg_of(drawn["accuracy_macs"]), svg_of(drawn["speedup"])
    for spec, rows in frame:
        macs, top1 = rows["macs"].mean() / 1e6, rows["top1"].mean()
        assert f"{spec}: {macs:.4g}, {top1:.2f} %" in titles(scatter)
        assert f"{spec}: {rows['speedup_executed'].mean():.2f}x executed (by what ran)" in titles(bars)


def test_a_point_s_label_and_error_bars_belong_to_its_mark(seeds: Store) -> None:
    marks = [one for one in svg_of(figures_of(seeds)["accuracy_macs"]).iter() if one.get("data-spec") == "condconv"]
    assert [text.text for mark in marks for text in mark.iter("text")] == ["condconv"]
    assert len([use for mark in marks for use in mark.iter("use")]) >= 3  # the point, the ends of its bar


def test_plots_of_one_page_share_no_id_and_bring_no_style(seeds: Store) -> None:
    curve = Curve("loss", False, (0.0, 1.0), (2.0, None))
    training = Curves("training-a", "", (curve, Curve("gate a", True, (0.0, 1.0), (0.5, 1.0))), ((0.0, "joint"),))
    drawn = [svg_of(figure) for figure in [*figures_of(seeds).values(), training]]
    ids = [one.get("id") for svg in drawn for one in svg.iter() if one.get("id")]
    assert len(ids) == len(set(ids)) > 0
    for svg in drawn:
        own = {one.get("id") for one in svg.iter()}
        links = " ".join(value for one in svg.iter() for value in one.attrib.values() if "#" in value)
        assert set(re.findall(r"#(\w+)\)", links)) <= own
        assert not list(svg.iter("style"))
        assert "#ffffff" not in links
    assert titles(drawn[-1]) == ["loss", "gate a"]


def test_a_training_whose_loss_is_negative_is_drawn_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    drawings = []
    monkeypatch.setattr(plots, "_saved", lambda drawn, form: drawings.append(drawn) or b"<svg/>")
    for values, bottom in (((1.0, 0.5), 0.0), ((1.0, -3.0), -3.0)):
        plots.svg(Curves("a", "", (Curve("loss", False, (0.0, 1.0), values),), ()), {})
        low, _ = drawings[-1].axes[0].get_ylim()
        assert low == 0.0 if bottom == 0 else low < bottom


def panel_of(*points: tuple[float, float], ladder: tuple[tuple[float, float], ...] = ()) -> Panel:
    own = tuple(Point("it", "it", False, x, y, math.nan, math.nan) for x, y in points)
    return Panel("", "MACs", own, ladder)


def test_the_front_of_all_has_what_no_cheaper_network_equals() -> None:
    ladder = ((1.0, 90.0), (2.0, 91.0), (4.0, 93.0))
    assert panel_of((3.0, 92.0), ladder=ladder).overall_front == ((1.0, 90.0), (2.0, 91.0), (3.0, 92.0), (4.0, 93.0))
    assert panel_of((2.0, 92.5), ladder=ladder).overall_front == ((1.0, 90.0), (2.0, 92.5), (4.0, 93.0))
    assert panel_of((3.0, 90.5), ladder=ladder).overall_front == ()  # static nets alone are another line
    assert panel_of((3.0, 90.5)).overall_front == ()


def test_labels_of_a_crowd_do_not_overlap() -> None:
    anchors = [(400.0 + 12 * column, 300.0 + 9 * row) for column in range(3) for row in range(3)]
    boxes = place(anchors, [(80.0, 14.0)] * 9, [], Box(0, 0, 1000, 700), 1.0)
    assert sum(one.overlap(other) for one, other in itertools.combinations(boxes, 2)) == 0
    assert all(box.left >= 0 and box.right <= 1000 for box in boxes)


def test_label_keeps_inside_and_off_the_lines() -> None:
    frame, line = Box(0, 0, 200, 100), Box(0, 49, 200, 51)
    (box,) = place([(195.0, 50.0)], [(60.0, 14.0)], [line], frame, 1.0)
    assert box.right <= 200
    assert box.overlap(line) == 0


@pytest.mark.parametrize(
    ("text", "name"), [("mobilenet_v1(width=0.5)", "mobilenet_v1-width-0.5"), ("../a b", "..-a-b"), ("x/é", "x")]
)
def test_slug(text: str, name: str) -> None:
    assert slug(text) == name
    assert Path(f"plots/a-{slug(text)}.png").parent == Path("plots")
