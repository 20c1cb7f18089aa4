"""Figures of streams, by hand on tiny ones, and of a network whose gate is a rule."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch

from dyncomp import build
from dyncomp.data import ImageSplit, Streams
from dyncomp.profile import stream_figures
from dyncomp.profile.streams import (
    Answers,
    answered_figures,
    first_answer_figures,
    first_right_figures,
    policy_figures,
    share_by_kind,
)
from tests.handmade import ALWAYS_MACS, BODY_MACS, SIDE, bright_or_dark, gated_net, never

# Four streams of three frames. A: answered wrongly, then rightly. B: abandons two, the third is right.
# C: never right though answered. D: never answered, though its abandoned guess is right.
ANSWERED = [1, 1, 1, 0, 0, 1, 1, 0, 1, 0, 0, 0]
RIGHT = [0, 1, 1, 1, 0, 1, 0, 1, 0, 1, 1, 0]
MACS = [10, 10, 10, 2, 2, 10, 10, 2, 10, 2, 2, 2]
ANSWERS = Answers(torch.tensor(ANSWERED).bool(), torch.tensor(RIGHT).bool(), torch.tensor(MACS))
KINDS = [0, 0, 0, 1, 1, 0, 0, 1, 2, 1, 2, 2]
STREAMS = Streams(3, torch.tensor(KINDS), torch.zeros(12), ("clean", "blur", "dark", "noise"))


def test_answered_frames_by_hand() -> None:
    assert answered_figures(ANSWERS, 3) == {
        "accuracy_answered": pytest.approx(100 * 3 / 6),
        "share_answered": pytest.approx(6 / 12),
        "macs_per_stream": pytest.approx((30 + 14 + 22 + 6) / 4),
    }


def test_first_right_answer_by_hand() -> None:
    assert first_right_figures(ANSWERS, 3) == {
        "frames_to_first_right": pytest.approx((2 + 3 + 3 + 3) / 4),
        "macs_to_first_right": pytest.approx((20 + 14 + 22 + 6) / 4),
        "share_never_right": pytest.approx(2 / 4),
    }


def test_first_answer_by_hand() -> None:
    assert first_answer_figures(ANSWERS, 3) == {
        "share_right_first_answer": pytest.approx(1 / 4),
        "frames_to_first_answer": pytest.approx((1 + 3 + 1 + 3) / 4),
        "macs_to_first_answer": pytest.approx((10 + 14 + 10 + 6) / 4),
        "share_never_answered": pytest.approx(1 / 4),
    }


def test_kinds_by_hand() -> None:
    assert share_by_kind(ANSWERS.answered, STREAMS) == {
        "clean": pytest.approx(5 / 5),
        "blur": pytest.approx(0 / 4),
        "dark": pytest.approx(1 / 3),
        "noise": None,
    }


def test_what_the_abandoned_would_have_been() -> None:
    finished = torch.tensor([1, 1, 1, 1, 0, 1, 1, 0, 1, 0, 0, 0]).bool()
    figures = policy_figures(ANSWERS, finished, STREAMS)
    assert figures["accuracy_abandoned_if_finished"] == pytest.approx(100 * 1 / 6)


@pytest.mark.parametrize("length", [1, 2, 5, 8])
def test_equals_watching_frame_by_frame(length: int) -> None:
    random = torch.Generator().manual_seed(length)
    answered, right = (torch.rand(40, generator=random) < 0.4 for _ in range(2))
    macs = torch.randint(1, 100, (40,), generator=random)
    frames = spent = never = right_first = 0
    for start in range(0, 40, length):
        stream = range(start, start + length)
        hits = [i for i in stream if answered[i] and right[i]]
        stop = hits[0] if hits else stream[-1]
        frames, spent, never = frames + stop - start + 1, spent + int(macs[start : stop + 1].sum()), never + (not hits)
        given = [i for i in stream if answered[i]]
        right_first += bool(given) and bool(right[given[0]])
    number = 40 // length
    found = first_right_figures(Answers(answered, right, macs), length)
    assert list(found.values()) == pytest.approx([frames / number, spent / number, never / number])
    first = first_answer_figures(Answers(answered, right, macs), length)
    assert first["share_right_first_answer"] == pytest.approx(right_first / number)


def test_nothing_answered_has_no_accuracy() -> None:
    nothing = Answers(torch.zeros(12).bool(), ANSWERS.right, ANSWERS.macs)
    figures = policy_figures(nothing, ANSWERS.right, STREAMS)
    assert figures["accuracy_answered"] is None
    assert (figures["share_answered"], figures["share_never_answered"], figures["frames_to_first_right"]) == (0, 1, 3)


BRIGHT = [True, False, True, False, False, False, True, True]
SITE = "0"


def frames(bright: list[bool]) -> tuple[ImageSplit, Streams]:
    """White frames are good; all show a thing of class 1, which only a finished frame is known to be."""
    split = bright_or_dark(bright)
    object.__setattr__(split, "labels", torch.ones(len(bright)).long())
    kinds = torch.tensor([0 if b else 1 for b in bright])
    return split, Streams(4, kinds, kinds.double(), ("clean", "dark"))


def figures(seed: int = 0, net: Any = None) -> dict[str, dict[str, Any]]:
    return stream_figures(net or gated_net(), SITE, *frames(BRIGHT), seed)


@pytest.mark.parametrize("batch", [3, 256])
def test_a_gate_that_is_a_rule(batch: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dyncomp.profile.streams.BATCH_SIZE", batch)
    gate = figures()["gate"]
    assert gate["share_answered_by_kind"] == {"clean": 1.0, "dark": 0.0}
    assert (gate["accuracy_answered"], gate["share_answered"]) == (100, 0.5)
    assert gate["macs_per_stream"] == 4 * ALWAYS_MACS + 2 * BODY_MACS
    assert gate["frames_to_first_right"] == (1 + 3) / 2
    assert gate["macs_to_first_right"] == 2 * ALWAYS_MACS + BODY_MACS
    assert gate["accuracy_abandoned_if_finished"] == 100  # the body knows even the dark ones


def test_finishing_everything_and_dropping_at_random() -> None:
    found = figures()
    everything, random = found["finish_all"], found["random"]
    assert (everything["share_answered"], everything["accuracy_answered"]) == (1, 100)
    assert everything["macs_per_stream"] == 4 * (ALWAYS_MACS + BODY_MACS)
    assert everything["accuracy_abandoned_if_finished"] is None
    assert (everything["frames_to_first_right"], everything["share_never_right"]) == (1, 0)
    assert random["share_answered"] == found["gate"]["share_answered"]
    assert random["macs_per_stream"] == 2 * (ALWAYS_MACS + BODY_MACS)  # what is dropped unseen costs nothing


def test_random_is_drawn_by_the_seed() -> None:
    drawn = [figures(seed)["random"]["share_answered_by_kind"]["clean"] for seed in range(8)]
    assert drawn == [figures(seed)["random"]["share_answered_by_kind"]["clean"] for seed in range(8)]
    assert len(set(drawn)) > 1
    assert figures(0)["gate"] == figures(5)["gate"]


def test_a_gate_that_never_opens() -> None:
    found = figures(net=gated_net(never))
    gate, random = found["gate"], found["random"]
    assert gate["share_never_answered"] == random["share_never_answered"] == 1
    assert (gate["macs_per_stream"], random["macs_per_stream"]) == (4 * ALWAYS_MACS, 0)


def test_only_the_judged_pay_for_the_judge() -> None:
    net = build("frame_gate", "cifar_resnet8", classes=2, in_channels=2, image_size=SIDE)
    plain = build("static", "cifar_resnet8", classes=2, in_channels=2, image_size=SIDE)
    assert net.costs is not None and plain.costs is not None
    site = net.costs.sites["judge"]
    found = stream_figures(net, "judge", *frames(BRIGHT), seed=0)
    answered = found["gate"]["share_answered"]
    assert found["gate"]["macs_per_stream"] == 4 * (net.costs.always + site.overhead + answered * site.units[0])
    assert found["finish_all"]["macs_per_stream"] == 4 * plain.costs.full
    assert found["random"]["macs_per_stream"] == 4 * answered * plain.costs.full


def test_figures_are_plain() -> None:
    assert json.loads(json.dumps(figures())) == figures()


def test_a_wrong_site_and_wrong_streams_are_refused() -> None:
    split, streams = frames(BRIGHT)
    with pytest.raises(ValueError, match="'nowhere' judges no frames; the sites with one unit are 0"):
        stream_figures(gated_net(), "nowhere", split, streams, 0)
    with pytest.raises(ValueError, match="8 frames, but the streams have 12"):
        stream_figures(gated_net(), SITE, split, STREAMS, 0)
