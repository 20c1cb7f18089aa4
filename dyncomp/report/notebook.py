"""An output folder in a notebook: its results as a table, its page in a cell."""

from __future__ import annotations

import html
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from dyncomp.report.page import page_of
from dyncomp.report.words import results, words
from dyncomp.store import Store

if TYPE_CHECKING:
    import pandas as pd

HEIGHT = 900
"""of the page in a notebook, in pixels"""


def read_results(folder: str | Path) -> pd.DataFrame:
    """The results of an output folder, a row per cell and batch size: the columns of results.csv, with their types.

    Raises OutputError where the folder is none of a run.
    """
    return results(Store.open(Path(folder)))


def show(folder: str | Path) -> Shown:
    """The report of an output folder: in a notebook the page itself, elsewhere a sentence for each method.

    Raises OutputError where the folder is none of a run.
    """
    return Shown(Store.open(Path(folder)))


@dataclass(frozen=True)
class Shown:
    """What `show` returns; a notebook draws it."""

    store: Store

    def __repr__(self) -> str:
        return "\n".join(f"- {sentence}" for sentence in words(self.store))

    def _repr_html_(self) -> str:
        page = html.escape(page_of(self.store), quote=True)
        return f'<iframe srcdoc="{page}" width="100%" height="{HEIGHT}" style="border: 0"></iframe>'
