"""Where to write the labels of points so that they cover neither each other nor the points."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

GAP = 6.0
FAR = 18.0


@dataclass(frozen=True)
class Box:
    """A rectangle in pixels."""

    left: float
    bottom: float
    right: float
    top: float

    def overlap(self, other: Box) -> float:
        """The area that both cover."""
        width = min(self.right, other.right) - max(self.left, other.left)
        height = min(self.top, other.top) - max(self.bottom, other.bottom)
        return max(0.0, width) * max(0.0, height)

    def nearest(self, x: float, y: float) -> tuple[float, float]:
        """The point of the rectangle that is nearest to (x, y)."""
        return min(max(x, self.left), self.right), min(max(y, self.bottom), self.top)

    @property
    def area(self) -> float:
        """In square pixels."""
        return (self.right - self.left) * (self.top - self.bottom)


def candidates(x: float, y: float, width: float, height: float, unit: float) -> list[Box]:
    """Places for a text of that size around a point, the preferred ones first."""
    boxes = []
    for gap in (GAP * unit, FAR * unit, 2 * FAR * unit):
        right, left = x + gap, x - gap - width
        above, below = y + gap, y - gap - height
        middle, centre = y - height / 2, x - width / 2
        corners = [(right, middle), (left, middle), (right, above), (right, below)]
        corners += [(left, above), (left, below), (centre, above), (centre, below)]
        boxes += [Box(a, b, a + width, b + height) for a, b in corners]
    return boxes


def place(
    anchors: Sequence[tuple[float, float]],
    sizes: Sequence[tuple[float, float]],
    taken: Sequence[Box],
    frame: Box,
    unit: float,
) -> list[Box]:
    """A box per label; everything is in pixels, `unit` of them to a typographic point.

    `sizes` are (width, height), `taken` is to be kept free beside the points themselves. Greedy: a
    label takes the first place that covers least of these and of the labels before it.
    """
    half = 4 * unit
    marks = [Box(x - half, y - half, x + half, y + half) for x, y in anchors]
    placed: list[Box] = []
    for (x, y), (width, height) in zip(anchors, sizes, strict=True):
        boxes = candidates(x, y, width, height, unit)
        placed.append(min(boxes, key=partial(_cost, taken=[*marks, *taken, *placed], frame=frame)))
    return placed


def _cost(box: Box, taken: Sequence[Box], frame: Box) -> float:
    covered = sum(box.overlap(other) for other in taken)
    outside = box.area - box.overlap(frame)
    return covered + 3 * outside


@dataclass(frozen=True)
class Label:
    """A text for the point (x, y), both in data units; `mark` is the id that SVG gives to it and its leader line."""

    x: float
    y: float
    text: str
    colour: str
    mark: str


def write_labels(axes: Any, labels: Sequence[Label], lines: Sequence[Box]) -> None:
    """Label points of matplotlib `axes` whose layout is settled; keep off `lines` (data units)."""
    unit = axes.figure.dpi / 72
    renderer = axes.figure.canvas.get_renderer()
    texts = [_text(axes, label) for label in labels]
    sizes = [(e.width, e.height) for e in (text.get_window_extent(renderer) for text in texts)]
    anchors = [tuple(axes.transData.transform(text.xy)) for text in texts]
    edges = axes.get_window_extent(renderer)
    frame = Box(edges.x0, edges.y0, edges.x1, edges.y1)
    boxes = place(anchors, sizes, [_pixels(axes, line, unit) for line in lines], frame, unit)
    for label, text, (x, y), box in zip(labels, texts, anchors, boxes, strict=True):
        text.set_in_layout(False)
        text.set_position(((box.left - x) / unit, (box.bottom - y) / unit))
        near_x, near_y = box.nearest(x, y)
        offset = ((near_x - x) / unit, (near_y - y) / unit)
        if math.hypot(*offset) > FAR - 1:  # a thin line from the point, where the label had to go far
            line = {"arrowstyle": "-", "color": text.get_color(), "linewidth": 0.6, "shrinkB": 4}
            lead = axes.annotate("", text.xy, xytext=offset, textcoords="offset points", arrowprops=line)
            lead.set_in_layout(False)
            lead.set_gid(label.mark)


def _text(axes: Any, label: Label) -> Any:
    import matplotlib
    from matplotlib.patheffects import withStroke

    text = axes.annotate(
        label.text,
        (label.x, label.y),
        xytext=(0, 0),
        textcoords="offset points",
        color=label.colour,
        va="bottom",
        zorder=5,
        gid=label.mark,
    )
    if matplotlib.rcParams["svg.fonttype"] == "path":  # text that stays text gets its halo from the page's style sheet
        text.set_path_effects([withStroke(linewidth=3, foreground="white")])
    return text


def _pixels(axes: Any, line: Box, unit: float) -> Box:
    left, bottom = axes.transData.transform((line.left, line.bottom))
    right, top = axes.transData.transform((line.right, line.top))
    return Box(left - unit, bottom - unit, right + unit, top + unit)
