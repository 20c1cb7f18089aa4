"""The frame gate: its loss, its cuts, and that it tells good frames from bad ones."""

from __future__ import annotations

from math import log

import pytest
import torch
import torch.nn.functional as F

from dyncomp import build
from dyncomp.core import Net, Seen
from dyncomp.data import Splits, load
from dyncomp.errors import CannotAttach
from dyncomp.methods.frame_gate import SITE, FrameGate, balanced_loss
from dyncomp.profile import stream_figures
from dyncomp.registry import DATASETS
from dyncomp.train import Recipe, train


def network(spec: str = "frame_gate", backbone: str = "cifar_resnet8", classes: int = 10) -> Net:
    torch.manual_seed(0)
    return build(spec, backbone, classes=classes, in_channels=1, image_size=8)


def test_loss_by_hand() -> None:
    score, wrong = torch.tensor([0.2, 0.9, 0.4]), torch.tensor([0.0, 1.0, 0.5])
    missed = -(1.0 * log(0.9) + 0.5 * log(0.4)) / 1.5
    blamed = -(1.0 * log(0.8) + 0.5 * log(0.6)) / 1.5
    assert float(balanced_loss(score, wrong)) == pytest.approx((missed + blamed) / 2, rel=1e-4)


@pytest.mark.parametrize("rare", [0.1, 0.01])
def test_frames_that_are_nearly_all_right_still_tell_the_doubtful_ones(rare: float) -> None:
    """The best constant score stays in the middle while the doubt is above the bound, so that a ranking pays."""
    wrong = torch.full((100,), rare)
    score = torch.linspace(0.01, 0.99, 99)
    losses = torch.stack([balanced_loss(s.expand(100), wrong) for s in score])
    balanced = 0.5 if rare >= 0.05 else rare / 0.05 / (1 + rare / 0.05)
    assert float(score[losses.argmin()]) == pytest.approx(balanced, abs=0.011)


def test_the_worth_follows_the_finished_answer_and_does_not_move_it() -> None:
    net = network().train()
    images, labels = torch.randn(16, 1, 8, 8), torch.arange(16) % 10
    output = net(images)
    right = output.logits.softmax(1).gather(1, labels[:, None])[:, 0]
    wanted = F.cross_entropy(output.logits, labels) + 0.3 * F.cross_entropy(output.said[SITE], labels)
    wanted = wanted + 0.3 * balanced_loss(output.said[f"{SITE}.score"], (1 - right).detach())
    loss = FrameGate().loss(output, labels)
    assert loss.item() == pytest.approx(wanted.item(), rel=1e-5)
    behind = [p for name, p in net.named_parameters() if f".{SITE}.rest." in name]
    both = (torch.autograd.grad(x, behind, retain_graph=True) for x in (loss, F.cross_entropy(output.logits, labels)))
    for ours, plain in zip(*both, strict=True):
        assert torch.allclose(ours, plain, atol=1e-6)
    assert bool((output.trace[SITE].used == 1).all())  # in training every frame is finished


def seen_by(scores: list[float], right: list[bool]) -> Seen:
    logits = torch.tensor([[1.0, 0.0] if r else [0.0, 1.0] for r in right])
    return Seen(torch.zeros(len(right)).long(), logits, {f"{SITE}.score": torch.tensor(scores)})


SCORES, RIGHT = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6], [True, True, True, False, True, False]


@pytest.mark.parametrize("aim", ["macs", "balance"])
def test_the_cut_is_the_best_of_all(aim: str) -> None:
    net = network(classes=2)
    (chosen, *others) = FrameGate(aim=aim).points(net, seen_by(SCORES, RIGHT))  # type: ignore[arg-type]
    assert net.costs is not None
    rest = net.costs.sites[SITE].units[0]

    def worth(cut: float) -> float:
        stays = [r for s, r in zip(SCORES, RIGHT, strict=True) if s <= cut + 1e-6]
        if aim == "balance":
            return sum(stays) / 4 - (len(stays) - sum(stays)) / 2
        return sum(stays) / (6 * (net.costs.full - rest) + rest * len(stays))  # type: ignore[union-attr]

    assert worth(chosen.thresholds[SITE]) == pytest.approx(max(worth(cut) for cut in SCORES))
    assert [point.name for point in others] == ["answers 0.2", "answers 0.4", "answers 0.6", "answers 0.8"]
    assert [sum(s <= p.thresholds[SITE] + 1e-6 for s in SCORES) for p in others] == [2, 3, 4, 5]


def test_a_network_that_is_always_right_finishes_every_frame() -> None:
    net = network(classes=2)
    FrameGate().points(net, seen_by(SCORES, [True] * 6))[0].apply(net)
    assert float(net.sites[SITE].threshold) >= max(SCORES) - 1e-6  # type: ignore[arg-type]


def test_abandoning_spares_what_lies_behind_the_judge() -> None:
    early, late = (network(f"frame_gate(after={n})", "cifar_resnet14").costs for n in (1, 5))
    assert early is not None and late is not None
    assert early.sites[SITE].units[0] > 0.75 * early.without_overhead
    assert late.sites[SITE].units[0] < 0.25 * late.without_overhead


@pytest.mark.parametrize("after", [3, 10])
def test_a_judge_behind_the_end_is_refused(after: int) -> None:
    with pytest.raises(CannotAttach, match="cifar_resnet8 has 3 blocks") as caught:
        network(f"frame_gate(after={after})")
    assert "\n" not in str(caught.value)


def calibration_of(net: Net, splits: Splits) -> Seen:
    batch = next(iter(splits.calibration.batches(len(splits.calibration))))
    with torch.no_grad():
        forced = {SITE: net.sites[SITE].forced(*(torch.ones(len(batch.labels), 1),) * 2)}
        output = net(batch.images, sparse=False, decisions=forced)
    return Seen(batch.labels, output.logits, output.said)


def test_a_trained_gate_abandons_bad_frames_and_saves_work() -> None:
    splits = load(DATASETS.create("frames(streams=100)"))
    net, method = network(), FrameGate()
    train(net, splits.train, method.stages(), Recipe(epochs=6, batch_size=128, learning_rate=0.05), seed=0)
    assert splits.streams is not None
    method.points(net, calibration_of(net, splits))[0].apply(net)
    found = stream_figures(net, SITE, splits.test, splits.streams, seed=0)
    gate, everything, random = found["gate"], found["finish_all"], found["random"]
    kinds = gate["share_answered_by_kind"]
    assert kinds["clean"] > 0.2 + max(kinds[kind] for kind in ("blur", "dark", "occlusion"))
    assert gate["accuracy_answered"] > 5 + max(everything["accuracy_answered"], random["accuracy_answered"])
    assert gate["share_right_first_answer"] > max(f["share_right_first_answer"] for f in (everything, random))
    assert gate["macs_per_stream"] < everything["macs_per_stream"]  # although that pays for no judge
    assert gate["accuracy_abandoned_if_finished"] < gate["accuracy_answered"] - 10
