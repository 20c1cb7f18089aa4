"""Exit: an image leaves with the answer of a head, or stays and runs the rest of the network."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from dyncomp.core.graphs import either
from dyncomp.core.op import Op
from dyncomp.core.tape import Taped
from dyncomp.core.trace import Decision
from dyncomp.ops.rows import Rows, images_in, put, rows_where, take


class Judge(nn.Module, ABC):
    """Maps a head's output to an answer and its score; an image leaves if the score is high enough."""

    @abstractmethod
    def forward(self, given: Tensor) -> tuple[Tensor, Tensor]:
        """Answer (B, Y) and score (B,)."""


class Certainty(Judge):
    """The answer is the head's logits, the score is their confidence.

    `confidence`: the greatest softmax probability, from 1/Y to 1 (Huang et al. 2018, arXiv:1703.09844). `entropy`:
    minus the entropy of the softmax in nats (Teerapittayanon et al. 2016, arXiv:1709.01686, section III), from -log(Y)
    to 0.
    """

    def __init__(self, kind: Literal["confidence", "entropy"]) -> None:
        super().__init__()
        self.kind = kind

    def forward(self, given: Tensor) -> tuple[Tensor, Tensor]:
        """See `Judge.forward`."""
        chances = (given if given.dtype == torch.float64 else given.float()).softmax(dim=1)
        if self.kind == "confidence":
            return given, chances.amax(dim=1)
        return given, (chances * chances.clamp_min(1e-30).log()).sum(dim=1)


class Agreement(Judge):
    """For majority votes: the score is the mean probability of the class that all members so far vote for.

    If members disagree, the score is below 0, and no threshold from 0 to 1 lets the image leave.
    """

    def forward(self, given: Tensor) -> tuple[Tensor, Tensor]:
        """See `Judge.forward`."""
        share = (given if given.dtype == torch.float64 else given.float()).exp().amax(dim=1)  # (B,)
        return given, (share - (1 - TIE)) / TIE


class Exit(Op):
    """y = the head's answer for images that leave, rest(x) for images that stay.

    One unit, the rest of the network, which may hold further exits. An image leaves if its score is above `threshold`,
    a buffer, so that checkpoints contain it. The head's cost is the site's overhead; with `head_is_gate=False`, for a
    member of an ensemble, which runs anyway, it belongs to the scope around the site. In training all images stay.
    In the dense form answers are passed to `Tape.say` under the site's name, scores under `<site>.score`. x: features
    (B, C, H, W), or a tuple of them, one for each scale.
    """

    units = 1
    decides_anyway = True
    learns_to_decide = False

    def __init__(
        self, head: nn.Module, rest: nn.Module, judge: Judge, threshold: float, head_is_gate: bool = True
    ) -> None:
        super().__init__()
        self.head = head
        self.rest = rest
        self.judge = judge
        self.head_is_gate = head_is_gate
        self.register_buffer("threshold", torch.tensor(threshold))
        self.threshold: Tensor

    def asked(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The head's answer (B, Y), and its score (B,)."""
        given = self.head(x) if self.head_is_gate else self.outside(self.head, x)
        answer, score = self.judge(given)
        return answer, score

    def decide(self, x: Tensor) -> Decision:
        """1 for images that stay."""
        answer, score = self.asked(x)
        tape = self.tape
        tape.hand(self.site, answer)
        tape.say(self.site, answer)
        tape.say(f"{self.site}.score", score)
        stays = torch.ones_like(score) if self.training else (score <= self.threshold).to(score)
        used = stays[:, None].detach()  # (B, 1)
        return Decision(used, used, used)

    def dense(self, x: Tensor, decision: Decision) -> Tensor:
        """Run the rest on all images, then select one of two answers for each image."""
        answer = self._taken()
        with self.tape.within(decision.used[:, 0]):
            rest: Tensor = self.unit(0, self.rest, x)  # (B, Y)
        return torch.where(decision.used > 0.5, rest, answer.to(rest.dtype))

    def sparse(self, x: Tensor, decision: Decision) -> Tensor:
        """Run the rest of the network on the packed batch of the images that stay."""
        return self.join(x, self._taken(), self.moving(rows_where, decision.used[:, 0] > 0.5, images_in(x)))

    def branched(self, x: Tensor, decision: Decision) -> Tensor:
        """Run the rest in a conditional branch: see `Op.branched`."""
        answer, scales = self._taken(), (x,) if isinstance(x, Tensor) else x

        def run(answer: Tensor, *features: Tensor) -> Tensor:
            rest: Tensor = self.rest(features[0] if isinstance(x, Tensor) else features)  # (1, Y)
            return rest.to(answer.dtype)

        def leave(answer: Tensor, *features: Tensor) -> Tensor:
            return answer

        return either(decision.used[0, 0] > 0.5, self.rest, run, leave, (answer, *scales), self.tape)

    def join(self, x: Tensor, answer: Tensor, stay: Rows) -> Tensor:
        """The answers (B, Y): `answer` for images that leave, that of the rest of the network for those that stay."""
        if isinstance(stay, bool):
            rest: Tensor = self.unit(0, self.rest, x) if stay else answer
            return rest
        with self.tape.restricted_to(stay):
            rest = self.unit(0, self.rest, self.moving(take, x, stay))
        y: Tensor = self.moving(put, answer, stay, rest)
        return y

    def _taken(self) -> Tensor:
        """Take the head's answer of this pass from the tape."""
        answer: Tensor | None = self.tape.taken(self.site)
        if answer is None:
            raise RuntimeError("an exit combined its answers before it decided")
        return answer

    def unit_parts(self) -> tuple[nn.Module | None, ...]:
        """The rest of the network."""
        return (self.rest,)

    def least(self) -> Tensor:
        """No unit: every image may leave."""
        return torch.zeros(1)

    def forced(self, used: Tensor, weight: Tensor) -> Decision:
        """The requested decision."""
        return Decision(used, used, used)


class Voter(Taped):
    """A member of an ensemble; its answer combines the answers of all members so far, its own included.

    `average`: the mean of softmax probabilities. `majority`: each class's share of votes, ties broken by the mean
    probability. Answers are logarithms, so that softmax returns the shares. `number` counts from 1. In the dense form
    the member's own logits are passed to `Tape.say` under its site's name.
    """

    def __init__(self, member: nn.Module, number: int, combine: Literal["average", "majority"]) -> None:
        super().__init__()
        self.member = member
        self.number = number
        self.begins_afresh = number > 1  # members with equal initial weights would stay equal
        self.combine = combine

    def forward(self, x: Tensor) -> Tensor:
        """Images (B, C, H, W) -> log shares (B, Y)."""
        logits = self.own(x)
        shares = (logits if logits.dtype == torch.float64 else logits.float()).log_softmax(dim=1)
        if self.combine == "majority":
            votes = torch.zeros_like(shares).scatter(1, shares.argmax(dim=1, keepdim=True), 1.0)
            vote, no_vote = (1 - TIE + TIE * shares.exp()).log(), math.log(TIE) + shares
            shares = torch.where(votes > 0, vote, no_vote)
        if self.number > 1:  # logaddexp: no share underflows to 0
            shares = torch.logaddexp(self.tape.recall("votes", shares), shares)
        self.tape.remember("votes", shares)
        return shares - math.log(self.number)

    def own(self, x: Tensor) -> Tensor:
        """The member's own logits (B, Y)."""
        logits: Tensor = self.member(x)
        self.tape.say(self.site, logits)
        return logits


class Ensemble(nn.Module):
    """Runs all members on every image, one after the other; the last one's answer combines all (see `Voter`).

    `only`: the index of the one member that runs in training, None for all; in evaluation all members run. x: images
    (B, C, H, W), or features of a shared trunk.
    """

    def __init__(self, members: Sequence[nn.Module], combine: Literal["average", "majority"]) -> None:
        super().__init__()
        self.voters = nn.ModuleList(Voter(member, number, combine) for number, member in enumerate(members, start=1))
        self.only: int | None = None

    def forward(self, x: Tensor) -> Tensor:
        """Images or features -> log shares (B, Y)."""
        if self.training and self.only is not None:
            return self.alone(self.only, x)
        *others, last = self.voters
        for voter in others:
            voter(x)
        answer: Tensor = last(x)
        return answer

    def alone(self, index: int, x: Tensor) -> Tensor:
        """The logits (B, Y) of one member."""
        voter = self.voters[index]
        assert isinstance(voter, Voter)
        return voter.own(x)


TIE = 1e-3
"""weight of the probability relative to the vote: it breaks ties, and is too small to change a majority"""
