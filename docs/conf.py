"""Sphinx: the pages of this folder and the API from the docstrings. Built offline, by `scripts/check`."""

from __future__ import annotations

import importlib
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sphinx.application import Sphinx

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent)]  # the extensions of this folder, and the package of this checkout

from dyncomp._version import __version__  # noqa: E402 (found by the path above)

project = "dyncomp"
version = release = __version__
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.autosummary", "_docstrings", "_plugins"]

html_theme = "furo"
html_title = f"dyncomp {version}"
html_copy_source = False
myst_heading_anchors = 3
smartquotes = False

autodoc_inherit_docstrings = False  # what torch says of its modules is not said again
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
autosummary_generate = False  # tables of links alone: every object has its place on one page of `api`
python_maximum_signature_line_length = 110
python_use_unqualified_type_names = True
toc_object_entries_show_parents = "hide"

LAZY = ("dyncomp.bench",)
"""packages that load names when they are first asked for: autodoc sees only what is there"""


OUTSIDE = re.compile(r"\[([^]]*)\]\(\.\./([^)]+)\)")
"""links of these pages to files of the repository, which the built pages do not have"""


def setup(app: Sphinx) -> None:
    """Loads what is loaded lazily, and names files of the repository where the pages link to them."""
    app.connect("source-read", _name_files)
    for name in LAZY:
        package = importlib.import_module(name)
        vars(package).update({public: getattr(package, public) for public in package.__all__})


def _name_files(app: Sphinx, page: str, source: list[str]) -> None:
    source[0] = OUTSIDE.sub(r"\1 (`\2`)", source[0])
