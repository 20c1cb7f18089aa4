"""The report of a folder: `results.csv`, `report.md`, one offline `report.html` and the plots."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from dyncomp.report.comparison import Comparison, comparison_table
from dyncomp.report.content import Content, content
from dyncomp.report.figures import figures
from dyncomp.report.inline import inline
from dyncomp.report.plotdata import Figure, Scatter, colours
from dyncomp.report.plots import draw
from dyncomp.report.reading import Reading, read
from dyncomp.report.table import csv_text, results_of
from dyncomp.report.words import told
from dyncomp.store import Store, write_atomically

if TYPE_CHECKING:
    import jinja2
    import pandas as pd

TITLE = "dyncomp: accuracy, arithmetic and time"


@dataclass(frozen=True)
class Plot:
    """A plot for the templates: its files' name, and its drawing as an `<svg>` element, empty in Markdown.

    `cost`: what an overview, which has all methods in one picture and stands before what is said of each, sets accuracy
    against; "" for all other plots.
    """

    name: str
    title: str
    subtitle: str
    svg: str = ""
    cost: str = ""


def write_report(store: Store) -> list[Path]:
    """Write the report of all records into their folder and return its files, `results.csv` first.

    The same records give the same files. Raises `OutputError` where one cannot be written.
    """
    reading = read(store)
    frame = results_of(reading)
    said, plotted, colour = _prepared(reading, frame)
    files = {
        Path("results.csv"): csv_text(told(frame, said.sentences)).encode(),
        Path("report.md"): markdown(said, plotted).encode(),
        Path("report.html"): html(said, plotted, colour).encode(),
    }
    for figure in plotted:
        for form, drawn in draw(figure, colour).items():
            files[Path("plots") / f"{figure.name}.{form}"] = drawn
    write_atomically({store.folder / name: text for name, text in files.items()})
    return [store.folder / name for name in files]


def page_of(store: Store) -> str:
    """The page of all records of a folder, without writing anything."""
    reading = read(store)
    return html(*_prepared(reading, results_of(reading)))


def _prepared(reading: Reading, frame: pd.DataFrame) -> tuple[Content, list[Figure], dict[str, str]]:
    """What the page says, its plots, and the colour of each method."""
    colour = colours(frame.loc[frame["role"] == "method", "method"])
    return content(reading, frame), figures(reading, frame), colour


def html(said: Content, plotted: Sequence[Figure], colour: Mapping[str, str]) -> str:
    """The whole page as one text: it needs no other file and no network."""
    plots = [plot for figure in plotted for plot in _in_page(figure, colour)]
    trainings = {one.training.name: inline(one.training, colour) for one in said.details if one.training is not None}
    template = _environment().get_template("report.html.j2")
    return template.render(
        title=TITLE, said=said, plots=plots, trainings=trainings, colour=colour, static_colour="var(--soft)"
    )


def markdown(said: Content, plotted: Sequence[Figure]) -> str:
    """The same in Markdown; the plots are linked relative to it."""
    plots = [Plot(f.name, f.title, f.subtitle) for f in plotted]
    template = _environment().get_template("report.md.j2")
    text = template.render(title=TITLE, said=said, plots=plots)
    return re.sub(r"\n{3,}", "\n\n", text)


def comparison_page(compared: Comparison, before: Path, after: Path) -> str:
    """Two folders set against each other, as one page that needs no other file and no network."""
    template = _environment().get_template("comparison.html.j2")
    folders = {"before": str(before), "after": str(after)}
    counts = {str(verdict): count for verdict, count in compared.counts().items() if count}
    return template.render(compared=compared, rows=comparison_table(compared), counts=counts, **folders)


def _in_page(figure: Figure, colour: Mapping[str, str]) -> Iterator[Plot]:
    """A figure as the page has it: a scatter as a plot for each cost, of which one is shown at a time."""
    if not isinstance(figure, Scatter):
        yield Plot(figure.name, figure.title, figure.subtitle, inline(figure, colour))
        return
    for number, panel in enumerate(figure.panels):
        cost = "; ".join(text for text in (panel.x_label, panel.title) if text)
        name = f"{figure.name}-{number}" if number else figure.name
        svg = inline(replace(figure, name=name, panels=(panel,)), colour)
        yield Plot(name, figure.title, figure.subtitle, svg, cost)


def _environment() -> jinja2.Environment:
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("dyncomp.report"),
        autoescape=lambda name: name is not None and name.endswith(".html.j2"),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["md"] = in_markdown
    return environment


def in_markdown(text: object) -> str:
    """`text` on one line, with everything escaped that Markdown or HTML would take as its own."""
    flat = " ".join(str(text).split())
    flat = flat.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return re.sub(r"([\\`*_\[\]|#~$])", r"\\\1", flat)
