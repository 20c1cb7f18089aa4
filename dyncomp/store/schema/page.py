"""The page on records, made of their descriptions: `python -m dyncomp.store.schema.page > docs/records.md`."""

from __future__ import annotations

import inspect
import json
import sys
from collections.abc import Iterable, Iterator
from typing import Any, Literal, get_args, get_origin, is_typeddict

from dyncomp.store.schema.cell import Begun, CellRecord, Trained
from dyncomp.store.schema.config import ConfigRecord
from dyncomp.store.schema.figures import Answers, Chosen, Computed
from dyncomp.store.schema.fit import in_words, keys_of, title_of
from dyncomp.store.schema.images import ImageColumns
from dyncomp.store.schema.key import LEFT_OUT, NEVER_ABSENT, Key
from dyncomp.store.schema.resources import EnergyFigures, MemoryFigures, Resources, TimeFigures
from dyncomp.store.schema.timing import TimingRecord

FILES: dict[Any, tuple[Any, ...]] = {
    CellRecord: (
        *(Begun, Trained, Answers, Computed, Chosen),
        *(TimeFigures, MemoryFigures, EnergyFigures, Resources),
    ),
    ImageColumns: (),
    TimingRecord: (),
    ConfigRecord: (),
}
"""what each kind of file is a record of, and the groups that the keys of a long one are shown in"""

HEAD = """# What a record says

An output folder holds what a run has measured as JSON and Parquet; the report is made of these files alone. Here is
what each key means, in which unit, and when it is there. This page is made of `dyncomp/store/schema/`, which the code
that writes and reads records uses too: `python -m dyncomp.store.schema.page > docs/records.md`.

MACs are multiply-adds, gates included; FLOPs are twice that. A number that is not finite is written as null. "Older"
are records of former versions that lack a key: what they are read with, if anything. A record without a key that it
should have, or with a value of another type, is skipped with a warning that names the key; an unknown key is told.
"""


def page() -> str:
    """The whole page, in Markdown."""
    lines = [HEAD, *(line for kind in FILES for line in _file(kind))]
    lines += ["## Inside of records", "", "What stands in a record as a table of its own.", ""]
    for part in dict.fromkeys(part for kind in FILES for part in _parts(kind)):
        lines += _section(part, keys_of(part), "###")
    return "\n".join(lines).rstrip("\n") + "\n"


def _file(kind: Any) -> Iterator[str]:
    """The keys of a kind of file, those of its groups behind its own, each key once."""
    grouped: dict[str, Any] = {}
    for group in FILES[kind]:
        grouped |= {name: group for name in keys_of(group) if name not in grouped}
    yield from _section(kind, [name for name in keys_of(kind) if name not in grouped], "##")
    for group in FILES[kind]:
        yield from _section(group, [name for name in grouped if grouped[name] is group], "###")


def _section(kind: Any, names: Iterable[str], mark: str) -> Iterator[str]:
    yield from (f"{mark} {title_of(kind).capitalize()}", "", inspect.getdoc(kind) or "", "")
    yield "| key | type | unit | what it says | there | older |"
    yield "|---|---|---|---|---|---|"
    for name in names:
        hint, key = keys_of(kind)[name]
        cells = (f"`{name}`", in_words(hint, _link), key.unit, key.meaning, key.when.words, _older(key))
        yield f"| {' | '.join(cells)} |"
    yield ""


def _link(title: str) -> str:
    return f"[{title}](#{title.replace(' ', '-')})"


def _older(key: Key) -> str:
    if key.before is NEVER_ABSENT:
        return ""
    if key.before is LEFT_OUT:
        return "may lack it"
    return "made of other keys" if callable(key.before) else f"`{json.dumps(key.before)}`"


def _parts(hint: Any) -> Iterator[Any]:
    """The parts with keys of their own that a type consists of, in order, a part before what it consists of itself."""
    inner = [hint for hint, _ in keys_of(hint).values()] if is_typeddict(hint) else get_args(hint)
    for one in inner:
        if is_typeddict(one):
            yield one
        if get_origin(hint) is not Literal:
            yield from _parts(one)


if __name__ == "__main__":
    sys.stdout.write(page())
