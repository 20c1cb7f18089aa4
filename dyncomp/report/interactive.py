"""The same plots for the page: plain descriptions that the inlined plotly.js draws."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from dyncomp.report.plotdata import PALETTE, STATIC_COLOUR, Bars, Curves, Figure, Histogram, Panel, Scatter
from dyncomp.report.plots import bar_colour

Description = dict[str, Any]
STATIC_SHOWN = "#8a8f98"
"""static's grey in the page: seen on white and on black"""


def describe(figure: Figure, colour: Mapping[str, str]) -> Description:
    """`data`, `layout` and `height` in pixels, as plotly.js takes them."""
    if isinstance(figure, Scatter):
        return _scatter(figure, colour)
    if isinstance(figure, Histogram):
        return _histogram(figure, colour)
    return _bars(figure)


def curves_of(figure: Curves) -> Description:
    """The same of a training: losses by the left axis, shares by the right one, a line where each stage begins."""
    data = [
        {
            "type": "scatter",
            "mode": "lines",
            "name": curve.name,
            "x": list(curve.x),
            "y": [value if value is None else round(value, 4) for value in curve.y],
            "yaxis": "y2" if curve.share else "y",
            "line": {"width": 2 if place < 2 else 1, "color": (STATIC_SHOWN, *PALETTE)[place % (1 + len(PALETTE))]},
        }
        for place, curve in enumerate(figure.curves)
    ]
    line = {"color": STATIC_SHOWN, "width": 1, "dash": "dot"}
    begins = [
        {"type": "line", "line": line, "x0": x, "x1": x, "y0": 0, "y1": 1, "yref": "paper"} for x, _ in figure.begins
    ]
    notes = [
        {"x": x, "y": 1, "yref": "paper", "text": text, "showarrow": False, "xanchor": "left", "yanchor": "bottom"}
        for x, text in figure.begins
    ]
    shares = [value for curve in figure.curves if curve.share for value in curve.y if value is not None]
    share = {"title": {"text": "share"}, "overlaying": "y", "side": "right", "showgrid": False, "dtick": 0.25}
    layout = {
        "xaxis": {"title": {"text": "epoch"}},
        "yaxis": {"title": {"text": "loss"}, "rangemode": "tozero"},
        "yaxis2": share | {"range": [0, 1.05 * max(1.0, *shares)]},
        "shapes": begins,
        "annotations": notes,
        "legend": {"orientation": "h", "yanchor": "top", "y": -0.2, "x": 0},
    }
    return {"data": data, "layout": layout, "height": 340 + 20 * (len(data) // 3)}


def _of(item: Any, colour: Mapping[str, str]) -> str:
    return STATIC_SHOWN if item.static else colour[item.method]


def _number(value: float) -> float | None:
    return None if math.isnan(value) else value


def _axis(place: int) -> str:
    return "" if place == 0 else str(place + 1)


def _scatter(figure: Scatter, colour: Mapping[str, str]) -> Description:
    count = len(figure.panels)
    data: list[Description] = []
    crosses: list[Description] = []
    grid = {"rows": count, "columns": 1, "pattern": "independent"}
    layout: Description = {"grid": grid, "shapes": crosses}
    for place, panel in enumerate(figure.panels):
        axis = _axis(place)
        data += _ladder(panel, axis, place == 0) if panel.ladder else []
        data += [_trace(point, axis, place == 0, colour) for point in panel.points]
        data += [_overall_front(panel, axis, place == 0)] if panel.overall_front else []
        x_title = "; ".join(text for text in (panel.x_label, panel.title) if text)
        titles = {f"xaxis{axis}": x_title, f"yaxis{axis}": figure.y_label}
        layout |= {name: {"title": {"text": text}} for name, text in titles.items()}
        if panel.ticks:
            layout[f"xaxis{axis}"] |= {"type": "log", "tickvals": list(panel.ticks)}
        crosses += _cross(panel, axis)
    return {"data": data, "layout": layout, "height": 120 + 340 * count}


def _ladder(panel: Panel, axis: str, legend: bool) -> list[Description]:
    """All static nets as points, and the line through those that no cheaper one equals."""
    shared = {
        "type": "scatter",
        "name": "static nets of several sizes",
        "legendgroup": "ladder",
        "xaxis": f"x{axis}",
        "yaxis": f"y{axis}",
    }
    points, line = ({"x": [x for x, _ in of], "y": [y for _, y in of]} for of in (panel.ladder, panel.front))
    return [
        {
            **(shared | points),
            "mode": "markers",
            "showlegend": legend,
            "marker": {"size": 6, "color": STATIC_SHOWN},
            "hovertemplate": "%{x:.4g}, %{y:.2f} %<extra>static net</extra>",
        },
        {
            **(shared | line),
            "mode": "lines",
            "showlegend": False,
            "line": {"color": STATIC_SHOWN, "width": 1.5},
            "hoverinfo": "skip",
        },
    ]


def _overall_front(panel: Panel, axis: str, legend: bool) -> Description:
    return {
        "type": "scatter",
        "mode": "lines",
        "name": "front of all networks, by their means",
        "legendgroup": "front",
        "showlegend": legend,
        "x": [x for x, _ in panel.overall_front],
        "y": [y for _, y in panel.overall_front],
        "xaxis": f"x{axis}",
        "yaxis": f"y{axis}",
        "line": {"color": STATIC_SHOWN, "width": 1, "dash": "dot", "shape": "hv"},
        "hoverinfo": "skip",
    }


def _trace(point: Any, axis: str, legend: bool, colour: Mapping[str, str]) -> Description:
    return {
        "type": "scatter",
        "mode": "markers",
        "name": point.label,
        "legendgroup": point.label,
        "showlegend": legend,
        "x": [point.x],
        "y": [point.y],
        "error_x": {"array": [_number(point.x_std)], "thickness": 1},
        "error_y": {"array": [_number(point.y_std)], "thickness": 1},
        "xaxis": f"x{axis}",
        "yaxis": f"y{axis}",
        "marker": {
            "size": 11,
            "color": _of(point, colour),
            "symbol": "square" if point.static else "circle",
        },
        "hovertemplate": "%{x:.4g}, %{y:.2f} %<extra>%{fullData.name}</extra>",
    }


def _cross(panel: Panel, axis: str) -> list[Description]:
    line = {"color": STATIC_SHOWN, "width": 1, "dash": "dash"}
    lines = []
    for point in (point for point in panel.points if point.static):
        x, y = f"x{axis}", f"y{axis}"
        across = {"x0": point.x, "x1": point.x, "y0": 0, "y1": 1, "yref": f"{y} domain"}
        along = {"y0": point.y, "y1": point.y, "x0": 0, "x1": 1, "xref": f"{x} domain"}
        lines += [
            {"type": "line", "line": line, "xref": x, **across},
            {"type": "line", "line": line, "yref": y, **along},
        ]
    return lines


def _histogram(figure: Histogram, colour: Mapping[str, str]) -> Description:
    count = len(figure.rows)
    width = figure.edges[1] - figure.edges[0]
    middles = [edge + width / 2 for edge in figure.edges[:-1]]
    shapes: list[Description] = []
    if figure.reference is not None:
        line = {"color": STATIC_SHOWN, "width": 1, "dash": "dash"}
        where = {"x0": figure.reference, "x1": figure.reference, "y0": 0, "y1": 1, "yref": "paper"}
        shapes.append({"type": "line", "line": line, **where})
    layout: Description = {
        "grid": {"rows": count, "columns": 1, "roworder": "top to bottom"},
        "xaxis": {"title": {"text": figure.x_label}, "range": [0, figure.edges[-1]]},
        "bargap": 0,
        "shapes": shapes,
    }
    layout |= {f"yaxis{_axis(place)}": {"title": {"text": "images"}} for place in range(count)}
    data = [
        {
            "type": "bar",
            "name": row.label,
            "x": middles,
            "y": list(row.counts),
            "xaxis": "x",
            "yaxis": f"y{_axis(place)}",
            "marker": {"color": _of(row, colour)},
            "hovertemplate": "%{y} images at %{x:.3g}<extra>%{fullData.name}</extra>",
        }
        for place, row in enumerate(figure.rows)
    ]
    return {"data": data, "layout": layout, "height": 130 + 120 * count}


def _bars(figure: Bars) -> Description:
    data = [
        {
            "type": "bar",
            "orientation": "h",
            "name": series.name,
            "y": list(figure.labels),
            "x": [_number(value) for value in series.values],
            "error_x": _interval(series.values, series.low, series.high),
            "marker": {"color": bar_colour(figure, place)},
            "hovertemplate": "%{x:.2f}x, %{y}<extra>%{fullData.name}</extra>",
        }
        for place, series in enumerate(figure.series)
    ]
    line = {"color": STATIC_COLOUR, "width": 1, "dash": "dash"}
    one = {"type": "line", "line": line, "x0": 1, "x1": 1, "y0": 0, "y1": 1, "yref": "paper"}
    layout = {
        "barmode": "group",
        "xaxis": {"title": {"text": figure.x_label}, "rangemode": "tozero"},
        "yaxis": {"autorange": "reversed", "type": "category", "ticksuffix": " "},
        "shapes": [one],
    }
    height = 150 + len(figure.labels) * (30 + 24 * len(figure.series))
    return {"data": data, "layout": layout, "height": height}


def _interval(values: Sequence[float], low: Sequence[float], high: Sequence[float]) -> Description:
    above = [_number(top - value) for value, top in zip(values, high, strict=True)]
    below = [_number(value - bottom) for value, bottom in zip(values, low, strict=True)]
    if not any(above):
        return {"visible": False}
    return {"type": "data", "symmetric": False, "array": above, "arrayminus": below, "thickness": 1}
