"""Plots, drawn once: as PNG for reading, SVG for papers and for the page; the same bytes from the same records."""

from __future__ import annotations

import io
import itertools
import math
from collections.abc import Iterator, Mapping
from itertools import pairwise
from typing import Any

from dyncomp.report.labels import Box, Label, write_labels
from dyncomp.report.plotdata import PALETTE, STATIC_COLOUR, Bars, Curves, Figure, Histogram, Panel, Scatter

SOFT_COLOUR = "#666666"
GRID_COLOUR = "#e5e5e5"
STYLE: Mapping[str, Any] = {
    "font.family": "DejaVu Sans",
    "font.size": 10,
    "axes.titlesize": 10,
    "axes.labelsize": 10,
    "axes.edgecolor": "#888888",
    "axes.axisbelow": True,
    "axes.grid": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "grid.color": GRID_COLOUR,
    "grid.linewidth": 0.8,
    "legend.frameon": False,
    "svg.hashsalt": "dyncomp",
    "text.parse_math": False,
    "savefig.facecolor": "white",
}
BAR_COLOURS = {"claimed": "#c9ccd1", "executed": "#8b9099"}
REALISED = ("#9ecae1", "#6baed6", "#3182bd", "#08519c", "#08306b")
PANELS_PER_LINE = 3
PIECES = 12
"""points of a line between two static nets that labels keep off"""
DPI = 150


def draw(figure: Figure, colour: Mapping[str, str]) -> dict[str, bytes]:
    """The plot as `png` and `svg`, with its title; `colour` is by method name."""
    import matplotlib

    style: Any = STYLE
    with matplotlib.rc_context(style):
        drawn = _drawn(figure, colour, told=True)
        drawn.suptitle(figure.title, x=0.012, ha="left", fontsize=13, fontweight="bold")
        above = 22 if isinstance(figure, Histogram) else 6  # points; a histogram's rows have their labels there
        drawn.axes[0].set_title(figure.subtitle, loc="left", color=SOFT_COLOUR, pad=above)
        if isinstance(figure, Scatter):
            _label(drawn, figure, colour)
        return {"png": _saved(drawn, "png"), "svg": _saved(drawn, "svg")}


def svg(figure: Figure | Curves, colour: Mapping[str, str]) -> bytes:
    """The plot as SVG without its title, for a page that holds other plots: texts stay texts, ids are its own.

    The id of a mark is `mark-N` or `mark-N-M`, N and M its places in the figure.
    """
    import matplotlib

    style: Any = {**STYLE, "svg.fonttype": "none", "svg.hashsalt": figure.name}
    with matplotlib.rc_context(style):
        drawn = _drawn(figure, colour, told=False)
        if isinstance(figure, Scatter):
            _label(drawn, figure, colour)
        return _saved(drawn, "svg")


def _drawn(figure: Figure | Curves, colour: Mapping[str, str], told: bool) -> Any:
    if isinstance(figure, Scatter):
        return _scatter(figure, colour, told)
    if isinstance(figure, Histogram):
        return _histogram(figure, colour)
    return _curves(figure) if isinstance(figure, Curves) else _bars(figure)


def _saved(drawn: Any, form: str) -> bytes:
    buffer = io.BytesIO()
    drawn.savefig(buffer, format=form, dpi=DPI, metadata={"Date": None} if form == "svg" else {})
    return buffer.getvalue()


def _canvas(width: float, height: float, arranged: bool = True) -> Any:
    """A figure whose size is in inches; one that is `arranged` finds its margins itself, by drawing all of it twice."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure as Drawing
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    layout = ConstrainedLayoutEngine(w_pad=0.08, h_pad=0.08, wspace=0.04) if arranged else None
    drawing = Drawing(figsize=(width, height), dpi=DPI, layout=layout)
    FigureCanvasAgg(drawing)
    return drawing


def _scatter(figure: Scatter, colour: Mapping[str, str], told: bool) -> Any:
    """`told`: with a title, and lines under the axis that say what its lines are; a page says both in its own text."""
    count = len(figure.panels)
    columns = min(count, PANELS_PER_LINE)
    lines = math.ceil(count / columns)
    drawing = _canvas(*((max(7.2, 4.6 * columns), 4.6 * lines) if told else (6.0, 5.0)))
    grid = drawing.subplots(lines, columns, sharey=True, squeeze=False)
    panes = [axes for line in grid for axes in line]
    for axes in panes[count:]:
        axes.set_visible(False)
    marks = itertools.count()
    for axes, panel in zip(panes, figure.panels, strict=False):
        _panel(axes, panel, colour, marks)
        axes.set_xlabel("\n".join(_legend(panel) if told else _costs(panel)))  # in one line it is wider than the axes
        if axes.get_subplotspec().is_first_col():
            axes.set_ylabel(figure.y_label)
    return drawing


def _label(drawing: Any, figure: Scatter, colour: Mapping[str, str]) -> None:
    """Write the points' names beside them, each as a part of its point's mark."""
    drawing.draw_without_rendering()  # the layout must stand before labels look for room
    marks = itertools.count()
    for axes, panel in zip(drawing.axes, figure.panels, strict=False):
        labels = [Label(p.x, p.y, p.label, _of(p, colour), f"mark-{next(marks)}") for p in panel.points]
        write_labels(axes, labels, _lines(axes, panel))


def _lines(axes: Any, panel: Panel) -> list[Box]:
    """What stands in a panel beside the points: error bars, static's dashed cross and the line of static nets."""
    (left, right), (bottom, top) = axes.get_xlim(), axes.get_ylim()
    lines = []
    for p in panel.points:
        x_std, y_std = (0.0 if math.isnan(std) else std for std in (p.x_std, p.y_std))
        bar = Box(max(left, p.x - x_std), p.y, p.x + x_std, p.y)  # a logarithmic axis has no place below 0
        lines += [bar, Box(p.x, p.y - y_std, p.x, p.y + y_std)]
        if p.static:
            lines += [Box(left, p.y, right, p.y), Box(p.x, bottom, p.x, top)]
    for (x, y), (next_x, next_y) in pairwise(panel.front):
        for share in (step / PIECES for step in range(PIECES + 1)):  # a slanting line is no rectangle
            at = x * (next_x / x) ** share if panel.ticks else x + share * (next_x - x)
            lines.append(Box(at, y + share * (next_y - y), at, y + share * (next_y - y)))
    return lines


def _of(item: Any, colour: Mapping[str, str]) -> str:
    return STATIC_COLOUR if item.static else colour[item.method]


def _panel(axes: Any, panel: Panel, colour: Mapping[str, str], marks: Iterator[int]) -> None:
    for point in panel.points:
        if point.static:
            axes.axvline(point.x, color=STATIC_COLOUR, linestyle="--", linewidth=1, zorder=1)
            axes.axhline(point.y, color=STATIC_COLOUR, linestyle="--", linewidth=1, zorder=1)
    if panel.ladder:
        axes.plot(*zip(*panel.ladder, strict=True), ".", color=STATIC_COLOUR, zorder=1.5)
        axes.plot(*zip(*panel.front, strict=True), color=STATIC_COLOUR, linewidth=1.2, zorder=1.5)
    if panel.overall_front:
        across, up = zip(*panel.overall_front, strict=True)
        axes.step(across, up, where="post", color=STATIC_COLOUR, linewidth=0.8, linestyle=":", zorder=1.5)
    if panel.ticks:
        axes.set_xscale("log")
        axes.set_xticks(panel.ticks, [f"{tick:g}" for tick in panel.ticks])
        axes.set_xticks([], minor=True)
    for method in dict.fromkeys(p.method for p in panel.points if not p.static):
        line = sorted((p.x, p.y) for p in panel.points if p.method == method)
        axes.plot(*zip(*line, strict=True), color=colour[method], linewidth=1, alpha=0.5, zorder=2)
    for point in panel.points:
        drawn = axes.errorbar(
            point.x,
            point.y,
            xerr=None if math.isnan(point.x_std) else point.x_std,
            yerr=None if math.isnan(point.y_std) else point.y_std,
            fmt="s" if point.static else "o",
            markersize=8,
            color=_of(point, colour),
            capsize=3,
            elinewidth=1,
            zorder=3,
        )
        mark = f"mark-{next(marks)}"
        for artist in drawn.get_children():
            artist.set_gid(mark)
    axes.margins(0.18)


def _costs(panel: Panel) -> list[str]:
    return [text for text in (panel.x_label, panel.title) if text]


def _legend(panel: Panel) -> list[str]:
    texts = _costs(panel)
    if any(not math.isnan(point.y_std) for point in panel.points):
        texts.append("bars: standard deviation over seeds")
    if panel.ladder:
        texts.append("grey: static nets, and the line of the best")
    if panel.overall_front:
        texts.append("dotted: front of all networks")
    return texts


def _histogram(figure: Histogram, colour: Mapping[str, str]) -> Any:
    count = len(figure.rows)
    drawing = _canvas(7.6, 1.3 + 1.15 * count)
    grid = drawing.subplots(count, 1, sharex=True, squeeze=False)[:, 0]
    for place, (axes, row) in enumerate(zip(grid, figure.rows, strict=True)):
        axes.set_gid(f"mark-{place}")
        axes.stairs(row.counts, figure.edges, fill=True, color=_of(row, colour), alpha=0.85)
        if figure.reference is not None:
            axes.axvline(figure.reference, color=STATIC_COLOUR, linestyle="--", linewidth=1)
        axes.text(0.0, 1.03, row.label, transform=axes.transAxes, color=_of(row, colour))
        axes.set_ylabel("images")
        axes.set_xlim(0, figure.edges[-1])
        axes.locator_params(axis="y", nbins=3, integer=True)
    dashed = "" if figure.reference is None else " (dashed: the static network)"
    grid[-1].set_xlabel(figure.x_label + dashed)
    return drawing


def _curves(figure: Curves) -> Any:
    """Losses by the left axis, shares by the right one, a dotted line where each stage begins."""
    below = 0.7 + 0.22 * math.ceil(len(figure.curves) / 3)  # inches for the axis and the legend
    height = below + 3.0
    drawing = _canvas(7.6, height, arranged=False)  # a run has as many of these as it has cells
    drawing.subplots_adjust(left=0.08, right=0.92, bottom=below / height, top=1 - 0.3 / height)
    losses = drawing.subplots()
    shares = losses.twinx()
    for place, curve in enumerate(figure.curves):
        (shares if curve.share else losses).plot(
            curve.x,
            [math.nan if value is None else value for value in curve.y],
            color=(STATIC_COLOUR, *PALETTE)[place % (1 + len(PALETTE))],
            linewidth=2 if place < 2 else 1,
            label=curve.name,
            gid=f"mark-{place}",
        )
    for begin, name in figure.begins:
        losses.axvline(begin, color=STATIC_COLOUR, linestyle=":", linewidth=1)
        losses.text(begin, 1.01, name, transform=losses.get_xaxis_transform())
    losses.set_xlabel("epoch")
    losses.set_ylabel("loss")
    if losses.dataLim.y0 >= 0:  # the loss of a policy's gradient may be negative
        losses.set_ylim(bottom=0)
    shares.set_ylabel("share")
    shares.set_ylim(0, max(1.05, shares.get_ylim()[1]))
    shares.grid(False)
    shares.spines["right"].set_visible(True)
    drawing.legend(loc="lower left", ncols=3)
    return drawing


def _bars(figure: Bars) -> Any:
    thick = 0.8 / len(figure.series)
    lines = len(figure.labels)
    drawing = _canvas(8.4, 1.9 + lines * (0.25 + 0.24 * len(figure.series)))
    axes = drawing.subplots()
    ends = [1.0]
    for place, series in enumerate(figure.series):
        heights = [line + (place + 0.5) * thick - 0.4 for line in range(lines)]
        shown = [0.0 if math.isnan(value) else value for value in series.values]
        drawn = axes.barh(heights, shown, 0.92 * thick, color=bar_colour(figure, place), label=series.name)
        for line, bar in enumerate(drawn):
            bar.set_gid(f"mark-{place}-{line}")
        bars = zip(heights, series.values, series.low, series.high, strict=True)
        ends += [_bar_end(axes, *bar) for bar in bars]
    axes.axvline(1.0, color=STATIC_COLOUR, linestyle="--", linewidth=1, zorder=1)
    axes.set_yticks(range(lines), figure.labels)
    axes.grid(False, axis="y")
    axes.set_ylim(lines - 0.5, -0.5)
    axes.set_xlim(0, 1.12 * max(ends))
    axes.set_xlabel(figure.x_label)
    drawing.legend(loc="outside lower left", ncols=min(3, len(figure.series)))
    return drawing


def _bar_end(axes: Any, height: float, value: float, low: float, high: float) -> float:
    if math.isnan(value):
        axes.text(0.01, height, " not timed", va="center", fontsize=8, color=SOFT_COLOUR)
        return 0.0
    end = value
    if not math.isnan(low) and not math.isnan(high):
        axes.plot([low, high], [height, height], color="black", linewidth=1)
        end = max(value, high)
    text = axes.annotate(
        f"{value:.2f}x",
        (end, height),
        xytext=(4, 0),
        textcoords="offset points",
        va="center",
        fontsize=8,
        color="black",
    )
    text.set_bbox({"facecolor": "white", "edgecolor": "none", "pad": 0.5})
    return end


def bar_colour(figure: Bars, place: int) -> str:
    """Greys for what is claimed and executed, blues from the smallest batch to the largest."""
    kind = figure.series[place].kind
    if kind in BAR_COLOURS:
        return BAR_COLOURS[kind]
    realised = [index for index, series in enumerate(figure.series) if series.kind == kind]
    shades = REALISED if len(realised) > 2 else REALISED[1:4:2]
    return shades[realised.index(place) % len(shades)]
