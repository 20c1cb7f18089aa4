"""The record of a run's configuration."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, TypedDict

from dyncomp.store.schema.key import Key


class LeftOutRecord(TypedDict):
    """A method that `all` stands for and that found no place in a backbone."""

    method: Annotated[str, Key("the method's name")]
    backbone: Annotated[str, Key("the backbone's spec")]
    reason: Annotated[str, Key("why, in a sentence")]


class OptionsRecord(TypedDict):
    """The options of a run as they were resolved: the command line before the config file before the defaults."""

    methods: Annotated[str, Key("specs of the methods, with commas between them")]
    backbone: Annotated[str, Key("specs of the backbones; empty: the data set's default")]
    dataset: Annotated[str, Key("specs of the data sets")]
    budget: Annotated[str, Key("`quick`, `standard` or a number of epochs")]
    seeds: Annotated[Sequence[int], Key("seeds of the run")]
    batch_sizes: Annotated[Sequence[int], Key("batch sizes that were timed", "images")]
    device: Annotated[str, Key("`cpu`, `cuda` or `auto`")]
    data_dir: Annotated[str, Key("where the data sets lie; empty: the usual places")]
    output: Annotated[str, Key("the output folder; empty: one that data set and backbone name")]
    init: Annotated[str, Key("checkpoint of the plain backbone that training begins from; empty: none")]
    controls: Annotated[Literal["auto", "none"], Key("whether every method has controls beside it", before="none")]
    recipe: Annotated[Mapping[str, Any], Key("hyperparameters of the training that were given", before={})]
    include_path: Annotated[Sequence[str], Key("loose plugin files, and folders of them")]
    jobs: Annotated[int | None, Key("cells trained at a time; null: as many as the cores allow")]
    latency_width: Annotated[float, Key("a timing ends when all ratios' intervals are this narrow", "% of the ratio")]
    latency_seconds: Annotated[float | None, Key("or after this time for a network; null: by the budget", "s")]
    compile: Annotated[bool, Key("whether torch.compile's form of every network was timed too")]
    fast: Annotated[bool, Key("whether the fast path was used; false: `--no-fast`", before=True)]
    force: Annotated[bool, Key("whether finished cells were run again")]
    strict_macs: Annotated[bool, Key("whether an operator without a known cost failed its cell")]
    dry_run: Annotated[bool, Key("whether the run was only to be told; false in every folder")]
    log: Annotated[Sequence[str], Key("experiment trackers that the results were sent to", before=())]


class ConfigContent(OptionsRecord):
    """All that a run says of what it was asked to do."""

    left_out: Annotated[Sequence[LeftOutRecord], Key("methods that `all` would have stood for besides", before=())]


class ConfigRecord(ConfigContent):
    """What the last run was asked to do; `config.json`. The ones before it are lines of `config-history.jsonl`."""

    dyncomp_output: Annotated[int, Key("the format's version; marks the folder as one of dyncomp's")]
