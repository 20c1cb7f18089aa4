"""The output folder of a run.

    config.json              what was asked for; its key `dyncomp_output` marks the folder as ours
    config-history.jsonl     the configs before it, one a line
    records/KEY.json         one cell: what was measured, how and where
    records/KEY.parquet      the same cell image by image, in test order
    records/timing-KEY.json  raw samples of the networks that were timed against each other
    checkpoints/KEY.safetensors

What each of them says, key by key: `dyncomp.store.schema`. A record is there or not, never in half; nothing is ever
deleted but by writing the same key again.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar, cast

from dyncomp.errors import InvalidValue, OutputError
from dyncomp.store.files import TEMP_PREFIX, json_bytes, plain, told_in_one_line, write_atomically
from dyncomp.store.images import parquet_bytes, read_parquet
from dyncomp.store.schema import (
    CellContent,
    CellRecord,
    ConfigContent,
    ConfigRecord,
    Fit,
    ImageColumns,
    NewRole,
    Resources,
    TimingContent,
    TimingRecord,
)

if TYPE_CHECKING:
    import pandas as pd

T = TypeVar("T", CellRecord, TimingRecord)
MOST_TOLD = 3
"""things that do not fit a record, and are told one by one"""


class RecordWarning(UserWarning):
    """A record that cannot be read, which is skipped and stays where it is; or one that holds what nobody knows."""


def cell_key(identity: Mapping[str, Any]) -> str:
    """16 hex digits that name `identity`: the order of its keys is nothing, any value is."""
    text = json.dumps(plain(identity), sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


class Store:
    """One output folder; made by `create` or `open`."""

    schema: ClassVar[int] = 1

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @classmethod
    def create(cls, folder: Path, config: ConfigContent) -> Store:
        """Make the folder, or open one of ours, and write `config` into it.

        Raises `OutputError`, and touches nothing, where the folder holds something else or
        cannot be written.
        """
        store = cls(Path(folder))
        previous = store._examined()
        current = plain({"dyncomp_output": cls.schema, **config})
        with told_in_one_line("write into", store.folder):
            store.folder.mkdir(parents=True, exist_ok=True)
            if previous and previous != current:
                with (store.folder / "config-history.jsonl").open("a", encoding="utf-8") as file:
                    file.write(json.dumps(previous, ensure_ascii=False) + "\n")
            write_atomically({store.config_path: json_bytes(current)})
            # after the config: a kill in between must not leave a folder not empty and not ours
            for part in (store.records, store.folder / "checkpoints"):
                part.mkdir(exist_ok=True)
        return store

    @classmethod
    def open(cls, folder: Path) -> Store:
        """Open a folder that a run has made. Raises `OutputError` where it is none of ours."""
        store = cls(Path(folder))
        if not store._examined():
            raise OutputError(
                f"{str(folder)!r} holds no results of dyncomp (no config.json of a run); "
                "give the --output folder of a benchmark run"
            )
        return store

    @property
    def config_path(self) -> Path:
        """The file that marks the folder as ours."""
        return self.folder / "config.json"

    @property
    def records(self) -> Path:
        """Where the records lie."""
        return self.folder / "records"

    @property
    def config(self) -> ConfigRecord:
        """The resolved config of the last run."""
        return cast(ConfigRecord, Fit.of(self._examined(), ConfigRecord).record)

    def write_cell(self, record: CellContent, images: ImageColumns | None) -> None:
        """Write one cell under its `key`; `images` are its per-image columns, None where it failed.

        The per-image file and the record appear together; the record comes last and commits both.
        """
        path = self._record_path(record["key"])
        parquet = path.with_suffix(".parquet")
        content = json_bytes({"schema": self.schema, "kind": "cell", **record})
        if images is None:
            write_atomically({path: content})
            parquet.unlink(missing_ok=True)  # of an earlier, successful run of this cell
        else:
            write_atomically({parquet: parquet_bytes(images), path: content})

    def add_to_cell(self, key: str, figures: Resources | NewRole) -> None:
        """Add figures to the record of that key, in place of those of the same name.

        Raises `OutputError` where there is no such record.
        """
        if self.cell(key) is None:
            raise OutputError(f"{self.folder} has no record of cell {key} that can be read; run the same command again")
        path = self._record_path(key)
        written = json.loads(path.read_bytes())  # as it is: stand-ins for what it lacks are no part of it
        write_atomically({path: json_bytes({**written, **figures})})

    def cell(self, key: str) -> CellRecord | None:
        """The record of that key; None where there is none, or none that can be read."""
        path = self.records / f"{key}.json"
        return self._read(path, CellRecord) if path.is_file() else None

    def cells(self) -> list[CellRecord]:
        """All cells, the latest finished last; one that cannot be read is warned of by name."""
        return sorted(self._read_all(CellRecord), key=lambda cell: (cell["finished_at"], cell["key"]))

    def write_timing(self, record: TimingContent) -> None:
        """Write one timing (raw samples of several cells at one batch size) under its `key`."""
        path = self._record_path(record["key"], prefix="timing-")
        write_atomically({path: json_bytes({"schema": self.schema, "kind": "timing", **record})})

    def timings(self) -> list[TimingRecord]:
        """All timings, the latest started last."""
        return sorted(self._read_all(TimingRecord), key=lambda timing: (timing["started_at"], timing["key"]))

    def images(self, key: str) -> pd.DataFrame:
        """`label`, `prediction`, `macs`, `route` (a 0 or 1 per unit, or hexadecimal), one row per test image.

        Raises `OutputError` where the cell has no per-image file, or one that cannot be read.
        """
        return read_parquet(self.records / f"{key}.parquet")

    def checkpoint_path(self, key: str) -> Path:
        """Where the trained weights of that cell lie, or will lie."""
        return self.folder / "checkpoints" / f"{key}.safetensors"

    def _record_path(self, key: object, prefix: str = "") -> Path:
        if not isinstance(key, str) or not re.fullmatch(r"[0-9a-zA-Z_-]{1,64}", key):
            raise InvalidValue(f"a record's key is a name of a file; given: {key!r}; use cell_key(identity)")
        return self.records / f"{prefix}{key}.json"

    def _read_all(self, kind: type[T]) -> list[T]:
        paths = sorted(self.records.glob("*.json"))
        wanted = [path for path in paths if path.name.startswith("timing-") == (kind is TimingRecord)]
        read = (self._read(path, kind) for path in wanted if not path.name.startswith(TEMP_PREFIX))
        return [record for record in read if record is not None]

    def _read(self, path: Path, kind: type[T]) -> T | None:
        """The record, with what records of former versions lack; None, and a warning by name, where it does not fit."""
        name = "timing" if kind is TimingRecord else "cell"
        try:
            written = json.loads(path.read_bytes())
            if written["kind"] != name or not isinstance(written["key"], str):
                raise ValueError(f"not a record of kind {name}")
            if written["schema"] > self.schema:
                raise ValueError(f"schema {written['schema']} is newer than this dyncomp")
            fit = Fit.of(written, kind)
            if fit.faults:
                raise ValueError(_few(fit.faults))
        except (OSError, ValueError, TypeError, KeyError) as error:
            why = f"{type(error).__name__}: {error}"
            warnings.warn(f"records/{path.name} is skipped ({why})", RecordWarning, stacklevel=4)
            return None
        if fit.oddities:
            warnings.warn(f"records/{path.name} is read, but: {_few(fit.oddities)}", RecordWarning, stacklevel=4)
        return cast(T, fit.record)

    def _examined(self) -> dict[str, Any]:
        """The folder's config, empty where nothing is there; `OutputError` if it is not ours."""
        with told_in_one_line("use", self.folder):
            if not os.path.lexists(self.folder):
                return {}
            names = [name for name in os.listdir(self.folder) if not name.startswith(TEMP_PREFIX)]
            text = self.config_path.read_bytes() if self.config_path.is_file() else b""
        if not names:
            return {}
        try:
            config = json.loads(text)
            version = config["dyncomp_output"]
        except (ValueError, TypeError, KeyError):
            raise OutputError(
                f"{str(self.folder)!r} holds something else than results of dyncomp; "
                "give the output folder of a run, or for a new run a new or empty one"
            ) from None
        if not isinstance(version, int) or version > self.schema:
            raise OutputError(
                f"{str(self.folder)!r} was written by another dyncomp (format {version!r}, this "
                f"one knows {self.schema}); use that version, or for a new run a new folder"
            )
        return dict(config)


def _few(texts: Sequence[str]) -> str:
    """The first of them, and how many there are besides."""
    more = len(texts) - MOST_TOLD
    return "; ".join([*texts[:MOST_TOLD], *([f"and {more} more"] if more > 0 else [])])
