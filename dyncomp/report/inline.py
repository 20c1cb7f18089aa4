"""A plot as inline SVG for the page: the page's colours, a tooltip and a name on every mark, no script."""

from __future__ import annotations

import re
from collections.abc import Mapping
from xml.etree import ElementTree

from dyncomp.report.plotdata import STATIC_COLOUR, Bars, Curves, Figure, Histogram, Scatter
from dyncomp.report.plots import GRID_COLOUR, SOFT_COLOUR, svg

VARIABLES: Mapping[str, str] = {
    "#000000": "var(--ink)",
    "#ffffff": "var(--paper)",
    GRID_COLOUR: "var(--line)",
    SOFT_COLOUR: "var(--soft)",
    STATIC_COLOUR: "var(--soft)",
}
"""colours of a file, and the variables of `style.css.j2` that stand for them in light and in dark pages"""


def inline(figure: Figure | Curves, colour: Mapping[str, str]) -> str:
    """An `<svg>` element; `colour` is by method name.

    Each mark (a point with its error bars and label, a bar, a row of a histogram, a curve) is a `<g>` with a `<title>`,
    and with the label of its network in `data-spec`, unless it is a curve.
    """
    root = ElementTree.fromstring(svg(figure, colour))
    titles = _titles(figure)
    referenced = set(re.findall(r"#([\w-]+)", " ".join(value for one in root.iter() for value in one.attrib.values())))
    for element in list(root.iter()):
        element.tag = _local(element.tag)
        for child in list(element):
            if _local(child.tag) in ("metadata", "style"):  # a `<style>` would hold for the whole page
                element.remove(child)
        _rewrite(element, titles, referenced)
    for name in ("width", "height"):  # the style sheet says how wide it is
        del root.attrib[name]
    root.set("preserveAspectRatio", "xMinYMin meet")
    return ElementTree.tostring(root, encoding="unicode")


def _rewrite(element: ElementTree.Element, titles: Mapping[str, tuple[str, str]], referenced: set[str]) -> None:
    """Attributes of HTML's own SVG elements; ids only where something refers to them, since a page has many plots."""
    name = element.get("id", "")
    if name in titles:
        label, text = titles[name]
        title = ElementTree.Element("title")
        title.text = text
        element.insert(0, title)
        if label:
            element.set("data-spec", label)
    if name not in referenced:
        element.attrib.pop("id", None)
    for key, value in list(element.attrib.items()):
        if _local(key) != key:
            element.set(_local(key), element.attrib.pop(key))
        elif key == "style":
            element.set(key, re.sub(r"#[0-9a-f]{6}", lambda found: VARIABLES.get(found[0], found[0]), value))


def _titles(figure: Figure | Curves) -> dict[str, tuple[str, str]]:
    """(label of a network or "", tooltip) by the id that `plots.py` gives to a mark."""
    if isinstance(figure, Scatter):
        points = enumerate(point for panel in figure.panels for point in panel.points)
        return {f"mark-{place}": (p.label, f"{p.label}: {p.x:.4g}, {p.y:.2f} %") for place, p in points}
    if isinstance(figure, Histogram):
        rows = enumerate(figure.rows)
        return {f"mark-{place}": (row.label, f"{row.label}: mean {row.mean:.3g}") for place, row in rows}
    if isinstance(figure, Curves):
        return {f"mark-{place}": ("", curve.name) for place, curve in enumerate(figure.curves)}
    return _bar_titles(figure)


def _bar_titles(figure: Bars) -> dict[str, tuple[str, str]]:
    return {
        f"mark-{place}-{line}": (label, f"{label}: {value:.2f}x {series.name}")
        for place, series in enumerate(figure.series)
        for line, (label, value) in enumerate(zip(figure.labels, series.values, strict=True))
    }


def _local(name: str) -> str:
    return name.rpartition("}")[2]
