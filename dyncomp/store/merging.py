"""Several output folders as one: their records and checkpoints, in a new folder."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

from dyncomp.errors import OutputError
from dyncomp.store.files import TEMP_PREFIX, told_in_one_line
from dyncomp.store.store import Store


def merge(stores: Sequence[Store], folder: Path) -> tuple[Store, list[str]]:
    """A new folder with what all the folders hold, and a line for each record of which they hold different versions.

    Of these the one that was finished last is kept. The config is the last folder's; those of the others are lines of
    `config-history.jsonl`. The folders themselves stay as they are. Raises OutputError where `folder` is there already
    and not empty, or where a file cannot be read or written.
    """
    with told_in_one_line("use", folder):
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise OutputError(f"{str(folder)!r} is not empty; give a new folder for the common report")
    left_out = {json.dumps(one, sort_keys=True): one for store in stores for one in store.config["left_out"]}
    for store in stores:
        content = {key: value for key, value in store.config.items() if key != "dyncomp_output"}
        merged = Store.create(folder, {**content, "output": str(folder), "left_out": [*left_out.values()]})  # type: ignore[typeddict-item]
    told = []
    with told_in_one_line("write into", folder):
        for name in sorted({path.name for store in stores for path in store.records.glob("*.json")}):
            if name.startswith(TEMP_PREFIX):
                continue
            having = [store for store in stores if (store.records / name).is_file()]
            best = max(having, key=lambda store: _ended(store.records / name))
            if len({(store.records / name).read_bytes() for store in having}) > 1:
                folders = ", ".join(str(store.folder) for store in having)
                told.append(f"records/{name} differs between {folders}: the one of {best.folder}, the latest, is kept")
            _copy(best, merged, Path("records") / name)
            _copy(best, merged, (Path("records") / name).with_suffix(".parquet"))
            _copy(best, merged, (Path("checkpoints") / name).with_suffix(".safetensors"))
    return merged, told


def _ended(record: Path) -> str:
    """When a record was made, as it says; "" where it cannot be read (the report names such a record)."""
    try:
        content = json.loads(record.read_bytes())
        return str(content.get("finished_at") or content.get("started_at") or "")
    except (OSError, ValueError, AttributeError):
        return ""


def _copy(source: Store, target: Store, file: Path) -> None:
    if (source.folder / file).is_file():
        shutil.copyfile(source.folder / file, target.folder / file)
