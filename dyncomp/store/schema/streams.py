"""What a network that judges frames makes of streams of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, TypedDict

from dyncomp.store.schema.key import Key


class AnsweredRecord(TypedDict):
    """All frames of all streams are shown."""

    accuracy_answered: Annotated[float | None, Key("right of the frames that are answered; null of none", "%")]
    share_answered: Annotated[float | None, Key("frames that are answered", "0 to 1")]
    macs_per_stream: Annotated[float, Key("mean of a stream, all frames shown", "MACs")]


class FirstRightRecord(TypedDict):
    """A stream is watched up to the first right answer; without one, to its end."""

    frames_to_first_right: Annotated[float, Key("mean frames up to the first right answer", "frames")]
    macs_to_first_right: Annotated[float, Key("mean of a stream up to there", "MACs")]
    share_never_right: Annotated[float | None, Key("streams without a right answer", "0 to 1")]


class FirstAnswerRecord(TypedDict):
    """A stream is watched up to the first answer; without one, to its end."""

    share_right_first_answer: Annotated[float | None, Key("streams whose first answer is right", "0 to 1")]
    frames_to_first_answer: Annotated[float, Key("mean frames up to the first answer", "frames")]
    macs_to_first_answer: Annotated[float, Key("mean of a stream up to there", "MACs")]
    share_never_answered: Annotated[float | None, Key("streams without an answer", "0 to 1")]


class _Judged(TypedDict):
    accuracy_abandoned_if_finished: Annotated[
        float | None, Key("right of the frames that are abandoned, had they been finished; null of none", "%")
    ]
    share_answered_by_kind: Annotated[
        Mapping[str, float | None], Key("frames answered, by what is wrong with them; null of none", "0 to 1")
    ]


class PolicyRecord(AnsweredRecord, FirstRightRecord, FirstAnswerRecord, _Judged):
    """What one way of choosing frames makes of the test streams."""


class StreamsRecord(TypedDict):
    """Three ways of choosing the frames that are answered."""

    gate: Annotated[PolicyRecord, Key("the network's own judgement")]
    finish_all: Annotated[PolicyRecord, Key("every frame is finished, without a judge")]
    random: Annotated[PolicyRecord, Key("as many frames as the gate abandons are dropped at random, unseen")]
