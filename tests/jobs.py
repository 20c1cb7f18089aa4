"""Tiny benchmark jobs: seconds instead of minutes, everything else as it is."""

from __future__ import annotations

from pathlib import Path
from textwrap import dedent
from typing import Any

from dyncomp.bench import Config, Outcome, run
from dyncomp.bench.events import CellStarted, Event, TimingStarted
from dyncomp.spec import spec_of

TINY: dict[str, Any] = {
    "backbone": "cifar_resnet8",
    "budget": "0.5",
    "batch_sizes": "2",
    "device": "cpu",
    "controls": "none",  # those have tests of their own
}
HEAD = """
from dataclasses import dataclass
from pathlib import Path

from dyncomp import Method, option, register_method
"""


def config(output: Path | str, methods: str = "condconv", **more: Any) -> Config:
    return Config(**{"methods": methods, "output": str(output), **TINY, **more})


def plugin(path: Path, name: str, body: str, mark: str = "") -> Path:
    """A loose file with a method called `name`; `body` are its members."""
    members = dedent(body).strip().replace("\n", "\n    ")
    path.write_text(
        f"{HEAD}\n\n@register_method({name!r})\n@dataclass(frozen=True)\nclass Loose(Method):\n"
        f'    """A method of a test."""\n\n    mark = {mark!r}\n    {members}\n',
        encoding="utf-8",
    )
    return path


PLAIN = """
    def build(self, new):
        return new()
"""


class Listening:
    """Runs jobs and notes what they tell."""

    def __init__(self) -> None:
        self.events: list[Event] = []

    def run(self, config: Config) -> Outcome | None:
        self.events.clear()
        return run(config, self.events.append)

    @property
    def trained(self) -> list[str]:
        """The specs of the cells that were run."""
        return [spec_of(event.cell.method) for event in self.events if isinstance(event, CellStarted)]

    @property
    def timed(self) -> list[tuple[int, int]]:
        """(networks, batch size) of every timing that was made."""
        return [(event.networks, event.batch_size) for event in self.events if isinstance(event, TimingStarted)]
