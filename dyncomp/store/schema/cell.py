"""The record of a cell: what is known before it is run, what its training was, and what came of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, TypedDict

from dyncomp.store.schema.figures import Figures, Warnings
from dyncomp.store.schema.key import FINISHED, LEFT_OUT, Key, When
from dyncomp.store.schema.machine import EnvironmentRecord
from dyncomp.store.schema.resources import Resources

Role = Literal["source", "static", "control", "method"]

GIVEN = When("the training began with other networks", None)
ENDED = When(
    "the cell's own process came to the end",
    lambda cell: cell.get("status") == "ok" or cell.get("traceback") is not None,
)


class RecipeRecord(TypedDict):
    """How the networks of a comparison are trained; the same for all of them."""

    epochs: Annotated[float, Key("the whole budget, all stages together", "epochs")]
    batch_size: Annotated[int, Key("images of a step of training", "images")]
    learning_rate: Annotated[float, Key("the highest of the curve, for `batch_size` images")]
    momentum: Annotated[float, Key("Nesterov momentum of SGD")]
    weight_decay: Annotated[float, Key("on kernels and matrices; not on biases and normalisation")]
    warmup: Annotated[float, Key("how long the learning rate rises from 0", "share of the steps")]
    clip: Annotated[float, Key("norm that gradients are clipped to")]
    augment: Annotated[float, Key("strength of the augmentation", "0 to 1", before=LEFT_OUT)]
    milestones: Annotated[
        Sequence[float],
        Key(
            "where the learning rate falls to a tenth, in place of the cosine; none: cosine",
            "share of the curve",
            before=LEFT_OUT,
        ),
    ]


class SourcesRecord(TypedDict):
    """Hashes of the code that defines the plugins of a cell: files without comments and docstrings."""

    method: Annotated[str, Key("of the method's code", "hash")]
    backbone: Annotated[str, Key("of the backbone family's code", "hash")]
    dataset: Annotated[str, Key("of the data set's code", "hash")]


class _Begins(TypedDict, total=False):
    sources: Annotated[Mapping[str, str], Key("keys of the cells that the training began with, by name", when=GIVEN)]
    checkpoints: Annotated[
        Mapping[str, str], Key("hashes of the checkpoints that were given in place of such cells, by name", when=GIVEN)
    ]


class IdentityRecord(_Begins):
    """All that determines the result of a cell; the key of the cell is a hash of it."""

    method: Annotated[str, Key("the method's spec with every hyperparameter, defaults included")]
    backbone: Annotated[str, Key("the backbone's, likewise")]
    dataset: Annotated[str, Key("the data set's, likewise")]
    source: Annotated[SourcesRecord, Key("hashes of the plugins' code: an edited method is another cell")]
    seed: Annotated[int, Key("of the weights, of the order of the images and of what is drawn in training")]
    budget: Annotated[str, Key("`quick`, `standard` or a number of epochs")]
    recipe: Annotated[RecipeRecord, Key("how the network was trained")]
    device: Annotated[str, Key("the kind of device, such as `cpu` or `cuda`")]
    version: Annotated[str, Key("of dyncomp")]


class Begun(TypedDict):
    """What is known of a cell before it is run."""

    key: Annotated[str, Key("the cell's name in the folder, a hash of `identity`", "16 hex digits")]
    identity: Annotated[IdentityRecord, Key("all that determines the result")]
    status: Annotated[Literal["ok", "failed"], Key("whether the cell came to the end")]
    error: Annotated[str | None, Key("in one line why the cell failed, and what to do; null where it is `ok`")]
    traceback: Annotated[
        str | None, Key("where in the code it failed; null where it is `ok`, or its process ended without a word")
    ]
    method: Annotated[str, Key("the method's name")]
    spec: Annotated[str, Key("the method with the hyperparameters that are not the defaults")]
    hyperparameters: Annotated[Mapping[str, Any], Key("the method's hyperparameters by name, defaults included")]
    paper: Annotated[str, Key("where the method was published; empty where it was not")]
    role: Annotated[
        Role,
        Key(
            "what the cell is in the comparison: `static`, the plain backbone that the others are set against; "
            "`method`; `control`; `source`, trained only because others begin with it"
        ),
    ]
    control_of: Annotated[str, Key("spec of the method that a control is of; else empty", before="")]
    sources: Annotated[
        Mapping[str, str],
        Key("keys of the cells that the training began with, by name, such as `plain`", before={}),
    ]
    backbone: Annotated[str, Key("the backbone's spec")]
    dataset: Annotated[str, Key("the data set's spec")]
    seed: Annotated[int, Key("as in `identity`")]
    budget: Annotated[str, Key("as in `identity`")]
    epochs: Annotated[float, Key("the whole budget, what `sources` spent of it included", "epochs")]
    device: Annotated[str, Key("as in `identity`")]
    warnings: Warnings
    started_at: Annotated[str, Key("when the cell was begun", "UTC, ISO 8601")]
    git_commit: Annotated[
        str | None, Key("the code's commit, `-dirty` behind it where files were edited; null outside a checkout")
    ]
    environment: Annotated[EnvironmentRecord, Key("versions and machine of the training")]


class StageRecord(TypedDict):
    """One stage of a training."""

    name: Annotated[str, Key("the method's name for it")]
    epochs: Annotated[float, Key("how long it was", "epochs")]
    seconds: Annotated[float, Key("how long it took", "s")]
    loss_first: Annotated[float | None, Key("mean loss of its first epoch; null where it is no number")]
    loss_last: Annotated[float | None, Key("mean loss of its last epoch; null where it is no number")]
    log: Annotated[
        Sequence[Sequence[float | None]],
        Key("rows of epoch, mean loss, and mean share of the plain backbone's multiply-adds that the gates asked for"),
    ]
    routes: Annotated[
        Sequence[Sequence[int]],
        Key("rows of epoch and distinct routes of a fixed batch of training images", before=LEFT_OUT),
    ]
    rates: Annotated[
        Sequence[Mapping[str, float]],
        Key(
            "for each row of `routes`, by site the mean share of its units that run for these images",
            "0 to 1",
            before=(),
        ),
    ]
    warnings: Annotated[Sequence[str], Key("what went wrong with the gates in training", before=LEFT_OUT)]


class Trained(TypedDict, total=False):
    """How the training went."""

    jobs: Annotated[int, Key("cells trained side by side; the more, the longer `train_seconds`", when=ENDED, before=1)]
    train_seconds: Annotated[float, Key("time of the training, that of `sources` not included", "s", when=FINISHED)]
    stages: Annotated[Sequence[StageRecord], Key("the training stage by stage", when=FINISHED)]


class CellContent(Begun, Trained, Figures, Resources, total=False):
    """All that a run says of a cell, from its beginning on."""

    finished_at: Annotated[
        str,
        Key("when it was trained and measured, or failed; the latest of a cell counts", "UTC, ISO 8601"),
    ]


class CellRecord(CellContent):
    """One cell: what was trained, how, and what came of it; `records/KEY.json`.

    Cells that others begin with and cells that failed are records of the same form: `role` and `status` say so.
    """

    schema: Annotated[int, Key("the format's version; a record of a higher one is not read")]
    kind: Annotated[Literal["cell"], Key("what the file is a record of")]


class NewRole(TypedDict):
    """What a cell is in a later comparison, when others had only begun with it before."""

    role: Role
