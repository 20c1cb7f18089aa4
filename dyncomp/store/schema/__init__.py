"""What the files of an output folder say, key by key.

Each kind of record is a `TypedDict` whose keys carry their meaning, their unit and when they are there (`Key`). Whoever
writes records or reads them uses these types, `Fit` checks what is read, and `docs/records.md` is made of them.
"""

from __future__ import annotations

from dyncomp.store.schema.cell import (
    Begun,
    CellContent,
    CellRecord,
    IdentityRecord,
    NewRole,
    RecipeRecord,
    Role,
    SourcesRecord,
    StageRecord,
    Trained,
)
from dyncomp.store.schema.config import ConfigContent, ConfigRecord, LeftOutRecord, OptionsRecord
from dyncomp.store.schema.figures import (
    Answers,
    Chosen,
    ClassRecord,
    Computed,
    Figures,
    GalleryRecord,
    GateRecord,
    IntervalRecord,
    Measured,
    MixtureRecord,
    OpinionRecord,
    OpinionsRecord,
    PointRecord,
    Spending,
)
from dyncomp.store.schema.fit import Fit, keys_of
from dyncomp.store.schema.images import ImageColumns
from dyncomp.store.schema.key import Key, When
from dyncomp.store.schema.machine import EnvironmentRecord
from dyncomp.store.schema.resources import (
    EnergyFigures,
    GapRecord,
    MemoryFigures,
    OperatorRecord,
    OperatorsRecord,
    PartsRecord,
    Resources,
    Taken,
    TimeFigures,
)
from dyncomp.store.schema.streams import (
    AnsweredRecord,
    FirstAnswerRecord,
    FirstRightRecord,
    PolicyRecord,
    StreamsRecord,
)
from dyncomp.store.schema.timing import FormRecord, LoadRecord, SettingRecord, TimingContent, TimingRecord, WantedRecord

__all__ = [
    "AnsweredRecord",
    "Answers",
    "Begun",
    "CellContent",
    "CellRecord",
    "Chosen",
    "ClassRecord",
    "Computed",
    "ConfigContent",
    "ConfigRecord",
    "EnergyFigures",
    "EnvironmentRecord",
    "Figures",
    "FirstAnswerRecord",
    "FirstRightRecord",
    "Fit",
    "FormRecord",
    "GalleryRecord",
    "GapRecord",
    "GateRecord",
    "IdentityRecord",
    "ImageColumns",
    "IntervalRecord",
    "Key",
    "LeftOutRecord",
    "LoadRecord",
    "Measured",
    "MemoryFigures",
    "MixtureRecord",
    "NewRole",
    "OperatorRecord",
    "OperatorsRecord",
    "OpinionRecord",
    "OpinionsRecord",
    "OptionsRecord",
    "PartsRecord",
    "PointRecord",
    "PolicyRecord",
    "RecipeRecord",
    "Resources",
    "Role",
    "SettingRecord",
    "SourcesRecord",
    "Spending",
    "StageRecord",
    "StreamsRecord",
    "Taken",
    "TimeFigures",
    "TimingContent",
    "TimingRecord",
    "Trained",
    "WantedRecord",
    "When",
    "keys_of",
]
