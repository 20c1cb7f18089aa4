"""Frame gate: a frame of a stream that is not worth finishing is abandoned early, and the next one is taken."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dyncomp.core import Backbone, Method, Net, Output, Point, Seen, chain
from dyncomp.errors import CannotAttach
from dyncomp.ops import Exit, Judge
from dyncomp.registry import register_method
from dyncomp.spec import option

SITE = "judge"
LEAST_DOUBT = 0.05  # share of a batch that its right, and its wrong answers, count as at least
SHARES = (0.2, 0.4, 0.6, 0.8)  # answered, of the further operating points


@register_method("frame_gate")
@dataclass(frozen=True)
class FrameGate(Method):
    """A head on shallow features judges whether a frame is worth finishing; otherwise its own guess is the answer.

    This project's own construction out of known parts: the exit is BranchyNet's (Teerapittayanon et al. 2016,
    arXiv:1709.01686), but a frame leaves because it is too bad, not because it is easy, and its worth is learnt beside
    the classes, as ConfidNet does for finished networks (Corbiere et al. 2019, arXiv:1910.04851): the target is the
    chance that the finished network gives to the right class. In training every frame is finished, so that this chance
    is there for all. Only the labels of the training split are used.

    Against collapse: the worthy and the unworthy halves of each batch, by that soft target, weigh the same while each
    is at least a twentieth of it; a rarer one weighs less, so that a single frame is not everything. So a network that
    answers nearly all its training frames rightly still learns which it is less sure of, and the score ranks frames
    instead of settling at always on. Where to cut the ranking is decided on the calibration split, by `aim`; until then
    `threshold` holds.
    """

    examples: ClassVar[tuple[str, ...]] = ('frame_gate(after=2, width=4, aim="balance")',)
    all_on_is_plain: ClassVar[bool] = True

    after: int = option(1, "blocks that run before the frame is judged", ge=1)
    width: int = option(16, "channels of the judging head", ge=1)
    aim: Literal["macs", "balance"] = option(
        "macs", "least multiply-adds per right answer, or right and wrong frames told apart best"
    )
    threshold: float = option(
        0.5, "chance of a bad frame above which it is abandoned, before calibration", gt=0.0, lt=1.0
    )
    guess_weight: float = option(0.3, "weight of the cross-entropy of the head's own guess", gt=0.0)
    worth_weight: float = option(0.3, "weight of the loss of the worth", gt=0.0)

    def build(self, new: Callable[[], Backbone]) -> nn.Module:
        """See `Method.build`."""
        backbone = new()
        if backbone.multi_scale or len(backbone.blocks) <= self.after:
            raise CannotAttach(
                f"frame_gate: {backbone.name} has {len(backbone.blocks)} blocks"
                f"{' that pass on several scales' if backbone.multi_scale else ''}, and one map of features behind the "
                f"first {self.after}, with blocks to come, is needed; choose another after=, or a backbone such as "
                "cifar_resnet14"
            )
        first = backbone.blocks[self.after]  # of those that an abandoned frame is spared
        channels = backbone.inputs()[first][0]
        layers = backbone.layers()
        cut = [name for name, _ in layers].index(first)
        classifier = backbone.part(backbone.classifier)
        assert isinstance(classifier, nn.Linear)
        head = JudgingHead(channels, self.width, classifier.out_features)
        judge = Exit(head, chain(layers[cut:]), Worth(), self.threshold)
        judge.judges_frames = True
        return nn.Sequential(OrderedDict([("shallow", chain(layers[:cut])), (SITE, judge)]))

    def loss(self, output: Output, labels: Tensor) -> Tensor:
        """See `Method.loss`; the finished network's cross-entropy comes first."""
        logits = output.logits.float()
        right = logits.detach().softmax(dim=1).gather(1, labels[:, None]).squeeze(1)  # (B,)
        guess = F.cross_entropy(output.said[SITE].float(), labels)
        worth = balanced_loss(output.said[f"{SITE}.score"], 1 - right)
        return F.cross_entropy(logits, labels) + self.guess_weight * guess + self.worth_weight * worth

    def points(self, net: Net, seen: Seen) -> Sequence[Point]:
        """See `Method.points`: the one that `aim` asks for, and some that answer a given share of the frames."""
        scores = seen.said[f"{SITE}.score"].double()
        right = seen.logits.argmax(dim=1) == seen.labels
        cuts = candidates(scores)
        gain = self._gain(net, scores, right, cuts)
        chosen = float(cuts[int(gain.argmax())])
        shares = [Point(f"answers {share:g}", "answered", {SITE: float(scores.quantile(share))}) for share in SHARES]
        return [Point("default", "default", {SITE: chosen}), *shares]

    def _gain(self, net: Net, scores: Tensor, right: Tensor, cuts: Tensor) -> Tensor:
        """What each threshold of `cuts` (K,) is worth, (K,)."""
        stays = scores[None] <= cuts[:, None]  # (K, N)
        good, bad = (stays & right).sum(1).double(), (stays & ~right).sum(1).double()
        if self.aim == "balance":  # Youden's index
            return good / right.sum().clamp_min(1) - bad / (~right).sum().clamp_min(1)
        if net.costs is None:
            raise RuntimeError("no costs yet: set net.costs = measure_costs(net, images[:1]) first")
        rest = net.costs.sites[SITE].units[0]
        return good / ((net.costs.full - rest) * len(scores) + rest * (good + bad))


class JudgingHead(nn.Module):
    """conv3x3 of stride 2 -> mean and maximum over space -> linear: logits of the classes, and one of a bad frame."""

    def __init__(self, channels: int, width: int, classes: int) -> None:
        super().__init__()
        conv = nn.Conv2d(channels, width, 3, stride=2, padding=1, bias=False)
        self.features = nn.Sequential(conv, nn.BatchNorm2d(width), nn.ReLU())
        self.linear = nn.Linear(2 * width, classes + 1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, Y + 1)."""
        maps = self.features(x)  # (B, width, H/2, W/2)
        logits: Tensor = self.linear(torch.cat([maps.mean(dim=(2, 3)), maps.amax(dim=(2, 3))], dim=1))
        return logits


class Worth(Judge):
    """All but the last of the head's logits are the guess; the last makes the score, the chance of a bad frame."""

    def forward(self, given: Tensor) -> tuple[Tensor, Tensor]:
        """See `Judge.forward`."""
        last = given[:, -1]
        return given[:, :-1], (last if last.dtype == torch.float64 else last.float()).sigmoid()


def balanced_loss(score: Tensor, wrong: Tensor) -> Tensor:
    """Cross-entropy of chances `score` (B,) with soft targets `wrong` (B,), both sides of it weighing the same.

    A side that has less than a twentieth of the batch is not blown up any further.
    """
    wrong = wrong.to(score.dtype)
    least = LEAST_DOUBT * len(score)
    margin = 1e-6
    inside = score * (1 - 2 * margin) + margin
    missed = -(wrong * inside.log()).sum() / wrong.sum().clamp_min(least)
    blamed = -((1 - wrong) * (1 - inside).log()).sum() / (1 - wrong).sum().clamp_min(least)
    return (missed + blamed) / 2


def candidates(scores: Tensor) -> Tensor:
    """Thresholds (K,) with which different numbers of frames stay, up to all: the scores (N,), at most 200 of them."""
    rising = torch.unique(scores)
    places = torch.linspace(0, len(rising) - 1, min(200, len(rising))).round().long()
    return torch.cat([rising[places], rising.new_ones(1)])  # a chance is never above 1
