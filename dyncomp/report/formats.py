"""Results in forms that others read: timm's result tables, and a table for a paper in LaTeX."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from dyncomp.errors import InvalidValue
from dyncomp.report import numbers as n
from dyncomp.report.table import GROUP
from dyncomp.report.words import results
from dyncomp.samples import is_invalid
from dyncomp.store import Store, write_atomically

if TYPE_CHECKING:
    import pandas as pd

TIMM = (
    *("model", "infer_samples_per_sec", "infer_step_time", "infer_batch_size", "infer_img_size", "infer_gmacs"),
    *("param_count", "top1", "top1_err"),
)


def timm_text(frame: pd.DataFrame) -> str:
    """A CSV with the columns of timm's results, a row for each network and batch size, means over seeds.

    `model` is spec and backbone; `infer_step_time` milliseconds per batch; `infer_gmacs` multiply-adds per image, mean
    over the test images, in 10^9; `param_count` in millions. What was not measured is empty, and so is the step time of
    a timing whose milliseconds are INVALID.
    """
    import pandas as pd

    rows = []
    for own in _networks(frame, list(GROUP)):
        valid = not own["verdict"].map(is_invalid).any()
        per_batch = own["latency_ms_p50"].mean() if valid else None
        first = own.iloc[0]
        rows.append(
            {
                "model": f"{first['spec']} on {first['backbone']}",
                "infer_samples_per_sec": None if per_batch is None else 1000 * first["batch_size"] / per_batch,
                "infer_step_time": per_batch,
                "infer_batch_size": first["batch_size"],
                "infer_img_size": first["image_size"],
                "infer_gmacs": own["macs"].mean() / 1e9,
                "param_count": own["params"].mean() / 1e6,
                "top1": own["top1"].mean(),
                "top1_err": 100 - own["top1"].mean(),
            }
        )
    return str(pd.DataFrame(rows, columns=list(TIMM)).to_csv(index=False, lineterminator="\n", float_format="%.6g"))


def latex_text(frame: pd.DataFrame) -> str:
    """A `tabular` for the package booktabs: a row for the plain backbone and each method, mean and deviation of seeds.

    Times are as many times as fast as static, at each batch size; in brackets where a seed's ratio is not VALID.
    """
    import pandas as pd

    networks = _networks(frame[frame["role"] != "control"], [name for name in GROUP if name != "batch_size"])
    sizes = sorted(int(size) for size in frame["batch_size"].dropna().unique())
    rows = [dict(_latex_row(own, sizes)) for own in networks]
    table = pd.DataFrame(rows).style.format(escape="latex").format_index(escape="latex", axis=1).hide(axis="index")
    return str(table.to_latex(hrules=True, column_format="l" + "r" * (len(rows[0]) - 1) if rows else None))


def _latex_row(own: pd.DataFrame, sizes: list[int]) -> Iterator[tuple[str, str]]:
    cells = own.drop_duplicates("key")
    yield "method", str(cells["spec"].iloc[0])
    top1, deviation = cells["top1"].mean(), cells["top1"].std()
    yield "top-1 (%)", n.fixed(top1, 2) + ("" if n.missing(deviation) else f" ± {n.fixed(deviation, 2)}")
    yield "MACs", n.macs(cells["macs"].mean())
    yield "claimed", n.ratio(cells["speedup_claimed"].mean())
    for size in sizes:
        timed = own[own["batch_size"] == size]
        ratio = n.ratio(timed["speedup_realised"].mean() if len(timed) else None)
        yield f"batch {size}", f"({ratio})" if timed["speedup_verdict"].map(is_invalid).any() else ratio
    gain, margin = (cells[f"over_static_at_equal_macs_{what}"].iloc[0] for what in ("points", "margin"))
    yield "over static at equal MACs", n.MISSING if n.missing(gain) else f"{gain:+.2f} ± {margin:.2f}"


def _networks(frame: pd.DataFrame, names: list[str]) -> Iterator[pd.DataFrame]:
    """The rows of each network that is ok, in the order of the table."""
    for _, own in frame[frame["status"] == "ok"].groupby(names, dropna=False, sort=False):
        yield own


FORMATS: Mapping[str, tuple[str, Callable[[pd.DataFrame], str]]] = {
    "timm": ("results-timm.csv", timm_text),
    "latex": ("results.tex", latex_text),
}
"""by name: the file beside `results.csv`, and what is in it"""


def formats_of(text: str) -> list[str]:
    """The names of `FORMATS` in a text with commas between them. Raises InvalidValue for one that is none."""
    names = [name.strip() for name in text.split(",") if name.strip()]
    for name in names:
        if name not in FORMATS:
            raise InvalidValue(f"--results-format {text!r}: {name!r} is no format; give {', '.join(FORMATS)}, or both")
    return list(dict.fromkeys(names))


def write_results(store: Store, names: Sequence[str]) -> list[Path]:
    """Write the results of a folder into it in each of these `FORMATS`, and return the files."""
    if not names:
        return []
    frame = results(store)
    files = {store.folder / FORMATS[name][0]: FORMATS[name][1](frame).encode() for name in names}
    write_atomically(files)
    return list(files)
