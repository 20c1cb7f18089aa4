"""Finds reporters by name, and has them send the results of a folder."""

from __future__ import annotations

from collections.abc import Iterable
from importlib.metadata import EntryPoint, entry_points
from importlib.util import find_spec

from dyncomp.errors import BrokenPlugin, InvalidValue, OutputError, UnknownName, in_one_line
from dyncomp.reporters.runs import Reporter, runs_of
from dyncomp.store import Store

GROUP = "dyncomp.reporters"
OWN = {
    "mlflow": "dyncomp.reporters.mlflow:MLflow",
    "tensorboard": "dyncomp.reporters.tensorboard:TensorBoard",
    "trackio": "dyncomp.reporters.wandb:Trackio",
    "wandb": "dyncomp.reporters.wandb:Wandb",
}


def check_reporters(names: Iterable[str]) -> dict[str, type[Reporter]]:
    """The reporters of these names. Raises UnknownName, BrokenPlugin, InvalidValue where a library is not installed."""
    known = {one.name: one for one in entry_points(group=GROUP)}
    known |= {name: EntryPoint(name, place, GROUP) for name, place in OWN.items()}
    found: dict[str, type[Reporter]] = {}
    for name in names:
        if name not in known:
            raise UnknownName.among("reporter", name, known, f"others are entry points of the group {GROUP}")
        try:
            reporter: type[Reporter] = known[name].load()
            required = reporter.requires
        except Exception as error:
            raise BrokenPlugin(f"reporter {name} ({known[name].value}): {in_one_line(error)}") from error
        if find_spec(required) is None:
            install = f"pip install 'dyncomp[{name}]'" if name in OWN else f"install {required}"
            raise InvalidValue(f"log={name!r}: {required} is not installed; {install}")
        found[name] = reporter
    return found


def log_results(store: Store, names: Iterable[str]) -> list[str]:
    """Send the results of a folder to each of the trackers; a line for each says where they are to be seen.

    Raises what `check_reporters` raises, and OutputError where a tracker does not take them.
    """
    reporters = check_reporters(names)
    if not reporters:
        return []
    runs, told = runs_of(store), []
    for name, reporter in reporters.items():
        try:
            told.append(f"{name}: {reporter().write(runs)}")
        except Exception as error:
            again = f"the results are in {store.folder}, and `dyncomp report {store.folder} --log {name}` sends them"
            raise OutputError(f"{name}: {in_one_line(error)}; {again}") from error
    return told
