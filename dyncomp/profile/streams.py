"""What a network that judges frames makes of streams of them: how much it answers, how well, and at what cost.

Two ways of use. All frames: every frame of every stream is shown, and what was answered is counted. Until the first
right answer: a stream is watched from its first frame on, and frames and multiply-adds are added up to where the
network first answered rightly; a stream without any counts with all its frames, and the share of such streams is told.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from dyncomp.core import Net
from dyncomp.data import Split, Streams
from dyncomp.profile.evaluation import BATCH_SIZE
from dyncomp.store.schema import AnsweredRecord, FirstAnswerRecord, FirstRightRecord, PolicyRecord, StreamsRecord


@dataclass(frozen=True)
class Answers:
    """What became of each frame of a split, in order: answered (N,) bool, right (N,) bool, macs (N,) int64.

    `right` is about the answer that a frame has, be it given or abandoned; without one it is false.
    """

    answered: Tensor
    right: Tensor
    macs: Tensor

    @property
    def good(self) -> Tensor:
        """Answered, and rightly, (N,) bool."""
        return self.answered & self.right


def stream_figures(net: Net, site: str, split: Split, streams: Streams, seed: int) -> StreamsRecord:
    """The network's own judgement, finishing every frame and dropping frames at random, as plain numbers by name.

    `site` is an op with one unit, the rest of the network: a frame is answered when the unit is used. As many frames
    are dropped at random, drawn by `seed`, as the network abandons by itself. The network runs in the sparse form, and
    what it costs is priced by its decisions. The two others need no judgement, so they do not pay for it: a frame that
    they finish costs the network without the judge, and one dropped at random costs nothing. Raises ValueError for a
    site that is none, and for a split that is not the one the streams are of.
    """
    if site not in net.sites or net.sites[site].units != 1:
        ones = [name for name, op in net.sites.items() if op.units == 1]
        raise ValueError(f"{site!r} judges no frames; the sites with one unit are {', '.join(ones) or 'none'}")
    count = len(split)
    own = _run(net, site, split, finish=False)
    everything = _run(net, site, split, finish=True)
    assert net.costs is not None  # frames have been priced
    everything = replace(everything, macs=everything.macs - net.costs.sites[site].overhead)  # without a judge
    order = torch.randperm(count, generator=torch.Generator().manual_seed(seed))
    kept = torch.zeros(count, dtype=torch.bool).index_fill(0, order[: int(own.answered.sum())], True)
    dropped = Answers(kept, everything.right & kept, everything.macs * kept)  # the others were never looked at
    return {
        "gate": policy_figures(own, everything.right, streams),
        "finish_all": policy_figures(everything, everything.right, streams),
        "random": policy_figures(dropped, everything.right, streams),
    }


def policy_figures(answers: Answers, right_if_finished: Tensor, streams: Streams) -> PolicyRecord:
    """All figures of one policy; `right_if_finished` (N,) bool is what the finished network makes of each frame."""
    if len(answers.answered) != len(streams.kinds) or len(streams.kinds) % streams.length:
        raise ValueError(
            f"{len(answers.answered)} frames, but the streams have {len(streams.kinds)} in streams of {streams.length}"
        )
    return {
        **answered_figures(answers, streams.length),
        "accuracy_abandoned_if_finished": percent(right_if_finished[~answers.answered]),
        **first_right_figures(answers, streams.length),
        **first_answer_figures(answers, streams.length),
        "share_answered_by_kind": share_by_kind(answers.answered, streams),
    }


def answered_figures(answers: Answers, length: int) -> AnsweredRecord:
    """All frames shown: percent right of the answered ones, share answered (0 to 1), mean MACs of a stream."""
    return {
        "accuracy_answered": percent(answers.right[answers.answered]),
        "share_answered": share(answers.answered),
        "macs_per_stream": _mean(answers.macs.view(-1, length).sum(1)),
    }


def first_right_figures(answers: Answers, length: int) -> FirstRightRecord:
    """Until the first right answer: mean frames and MACs of a stream, and the share of streams that never get there."""
    good = answers.good.view(-1, length)  # (S, L)
    frames = _frames_until(good)  # (S,)
    return {
        "frames_to_first_right": _mean(frames),
        "macs_to_first_right": _mean(_macs_until(answers.macs, frames, length)),
        "share_never_right": share(~good.any(1)),
    }


def first_answer_figures(answers: Answers, length: int) -> FirstAnswerRecord:
    """The first answered frame decides: share of streams it is right for, frames and MACs up to it, share unanswered.

    A stream without any answered frame counts as wrong, with all its frames.
    """
    answered = answers.answered.view(-1, length)  # (S, L)
    frames = _frames_until(answered)  # (S,)
    first_is_good = answers.good.view(-1, length).gather(1, frames[:, None] - 1)  # (S, 1)
    return {
        "share_right_first_answer": share(first_is_good),
        "frames_to_first_answer": _mean(frames),
        "macs_to_first_answer": _mean(_macs_until(answers.macs, frames, length)),
        "share_never_answered": share(~answered.any(1)),
    }


def share_by_kind(answered: Tensor, streams: Streams) -> dict[str, float | None]:
    """Share answered (0 to 1) of the frames of each kind; None where there is no such frame."""
    return {name: share(answered[streams.kinds == kind]) for kind, name in enumerate(streams.kind_names)}


def share(which: Tensor) -> float | None:
    """Part of a bool tensor that is true, from 0 to 1; None of nothing."""
    return _mean(which) if which.numel() else None


def percent(which: Tensor) -> float | None:
    """Percent of a bool tensor that is true; None of nothing."""
    return 100 * _mean(which) if which.numel() else None


def _mean(values: Tensor) -> float:
    return float(values.double().mean())


def _frames_until(event: Tensor) -> Tensor:
    """(S,) frames up to and with the first for which `event` (S, L) is true; all L where none is."""
    first = event.to(torch.int8).argmax(1) + 1
    return torch.where(event.any(1), first, event.shape[1])


def _macs_until(macs: Tensor, frames: Tensor, length: int) -> Tensor:
    """(S,) MACs of each stream's first `frames` (S,) frames."""
    return macs.view(-1, length).cumsum(1).gather(1, frames[:, None] - 1).squeeze(1)


def _run(net: Net, site: str, split: Split, finish: bool) -> Answers:
    """Answers in the sparse form, every frame finished or as the network decides."""
    parameter = next(net.parameters())
    answered, right, macs = [], [], []
    with torch.inference_mode():
        for images, labels, _ in split.batches(BATCH_SIZE):
            wish = torch.ones(len(images), 1).to(parameter)
            forced = {site: net.sites[site].forced(wish, wish)} if finish else None
            images = images.to(parameter.device, parameter.dtype, memory_format=torch.channels_last)
            output = net(images, sparse=True, decisions=forced)
            answered.append((output.trace.executed(site)[:, 0] > 0.5).cpu())
            right.append(output.logits.argmax(1).cpu() == labels)
            macs.append(output.macs().round().long().cpu())
    return Answers(torch.cat(answered), torch.cat(right), torch.cat(macs))
