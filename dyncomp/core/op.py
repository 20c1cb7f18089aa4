"""What every op shares: how a decision becomes one of two equal forms, or is run by a fused form of both."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from dyncomp.core.counter import MOVING, Part
from dyncomp.core.graphs import graph_form, is_traced
from dyncomp.core.rules import Rule
from dyncomp.core.tape import Tape, Taped
from dyncomp.core.trace import Decision
from dyncomp.errors import CannotAttach, CannotExport


class Fused(Protocol):
    """A fused form of an op, which `dyncomp.fast` puts into the slot `Op.fused` of a deployed network."""

    def __call__(self, op: Any, x: Any) -> Tensor | None:
        """The op's output for features x in the sparse form, as `decide` and `sparse` give it; None: not here and now.

        Called at most once in a pass for the same features, before the op has decided. A form that needs the decision
        asks `op.settled(x)` for it, which notes the decision on the tape.
        """


class Op(Taped, ABC):
    """A place where images decide what runs: both forms of it, dense and sparse, under one decision."""

    units: int
    """How many units the decision is about."""

    decides_anyway = False
    """Whether `decide` makes more than the decision and has to run where the decision is given."""

    learns_to_decide = True
    """Whether training settles the decision; false where a threshold does, chosen when the training is done."""

    judges_frames = False
    """Whether an image that does not use the one unit counts as a frame without an answer."""

    takes_one_image = True
    """Whether `branched` is for one image at a time, as where it puts conditional operators into the graph."""

    kept_by = "conditional operators"
    """What `branched` keeps an image's route by, in the words of who exports the network"""

    fused: Fused | None = None
    """A form that is quicker than `sparse`, where the network was deployed; see `Fused`."""

    reads: Op | None = None
    """The op whose used units are the input channels of this one: its coupled cost grows with both."""

    @abstractmethod
    def decide(self, x: Tensor) -> Decision:
        """The gate's own decision for features (B, ...), before anything is forced."""

    @abstractmethod
    def dense(self, x: Tensor, decision: Decision) -> Tensor:
        """Every unit for every image, combined by the decision; differentiable."""

    @abstractmethod
    def sparse(self, x: Tensor, decision: Decision) -> Tensor:
        """Only the units that the decision uses."""

    def branched(self, x: Tensor, decision: Decision) -> Tensor:
        """The form for graphs in which an image's route is kept (see `branches.py`).

        Raises CannotExport where the op has none.
        """
        raise CannotExport(
            f"{self.site}: {type(self).__name__} has no form with branches in the graph; export it --dense, which runs "
            "every unit and is right for every image"
        )

    @abstractmethod
    def unit_parts(self) -> tuple[nn.Module | None, ...]:
        """For each unit the module that runs only when the unit is used; None where a unit has none of its own."""

    @abstractmethod
    def least(self) -> Tensor:
        """The fewest units that an image may use, (U,) of 0 and 1."""

    def always(self) -> Tensor:
        """The units that no image can do without, (U,) of 0 and 1; those of `least`, unless the op says otherwise."""
        return self.least()

    @abstractmethod
    def forced(self, used: Tensor, weight: Tensor) -> Decision:
        """An allowed decision out of wishes (B, U): which units to use, and with what weight."""

    @property
    def is_gate(self) -> bool:
        """Whether training settles which of the units an image uses, and not all of them always are."""
        with torch.device("cpu"):  # it is asked of networks without numbers, too
            return self.learns_to_decide and not bool(self.always().all())

    def follow(self, make: Callable[[int, bool], Rule]) -> Rule:
        """Let a rule decide in place of the gate, which is thrown away; see `rules.py`.

        `make(units, weighted)` makes it. Raises CannotAttach where the op has no gate that a rule could replace.
        """
        raise CannotAttach(
            f"{type(self).__name__} has no gate that a rule could take the place of; give a method whose gates choose "
            "blocks, filters, pixels or branches, such as skipnet"
        )

    def wished(self, decision: Decision) -> Tensor:
        """The part (B, R) of a decision that a rule with R units makes; the others follow from it."""
        return decision.used

    def forward(self, x: Tensor) -> Tensor:
        """Features in, features out, in the form and by the decision that the tape asks for."""
        tape = self.tape
        if tape.sparse and self.fused is not None:
            y = self.fused(self, x)
            if y is not None:
                return y
        decision = self.settled(x)
        if graph_form() == "routed":
            return self.branched(x, decision)
        return self.sparse(x, decision) if tape.sparse else self.dense(x, decision)

    def settled(self, x: Tensor) -> Decision:
        """The decision that holds for features x in this pass, the gate's own or a forced one, noted on the tape."""
        tape = self.tape
        return tape.settle(self.site, self._decided(x, tape))

    def _decided(self, x: Tensor, tape: Tape) -> Decision:
        if self.training and self.site in tape.forced and not self.decides_anyway:
            return tape.given(self.site, x[0] if isinstance(x, tuple) else x)  # the gate need not run
        decision: Decision = self.overhead(self.decide, x)
        given, wanted = decision.used.shape, ((x[0] if isinstance(x, tuple) else x).shape[0], self.units)
        if given != wanted:
            raise ValueError(f"{self.site}: decided {tuple(given)}; a decision is for (images, units) = {wanted}")
        return decision

    def overhead(self, run: Callable[..., Any], *inputs: Any) -> Any:
        """Run a function whose cost is the site's overhead."""
        return self._metered(None, run, *inputs)

    def unit(self, unit: Part, run: Callable[..., Any], *inputs: Any) -> Any:
        """Run a unit of the site (`EACH`: all of them at once, alike; `COUPLED`: see `SiteCost`)."""
        return self._metered(unit, run, *inputs)

    def moving(self, run: Callable[..., Any], *inputs: Any) -> Any:
        """Run a function that only selects images, gathers them, or scatters results."""
        return self._metered(MOVING, run, *inputs)

    def outside(self, run: Callable[..., Any], *inputs: Any) -> Any:
        """Run a function inside the overhead whose cost belongs to the part of the network around the site."""
        meter = self.tape.meter
        if meter is None:
            return run(*inputs)
        with meter.around():
            return run(*inputs)

    def _metered(self, unit: Part, run: Callable[..., Any], *inputs: Any) -> Any:
        meter = self.tape.meter
        if meter is None:
            return run(*inputs)
        with meter.scope(self.site, unit):
            return run(*inputs)


def hard_decision(probability: Tensor, sampling: bool) -> Decision:
    """0/1 decisions from probabilities (B, U): a threshold at 1/2, or, when sampling, a draw.

    Thresholded, `used` and `weight` pass the gradient straight through to the probability (Bengio et al. 2013,
    arXiv:1308.3432). Sampled, the output learns nothing about the gate (that is the policy gradient's part), so only
    `used`, the price, keeps the straight-through gradient.
    """
    chosen = torch.bernoulli(probability) if sampling else (probability > 0.5).to(probability)
    if not probability.requires_grad:
        return Decision(chosen, chosen, probability)
    chosen = chosen.detach()
    # the difference is taken first: (chosen + p) - p would round, and a gate of 0.996 is neither open nor shut
    used = chosen + (probability - probability.detach())
    return Decision(used, chosen if sampling else used, probability)


def with_strongest(used: Tensor, score: Tensor) -> Tensor:
    """`used` (B, U), and where an image uses nothing the unit of the greatest score (B, U)."""
    if not (used.is_cuda or used.requires_grad or is_traced()) and bool((used.amax(dim=1) > 0).all()):
        return used  # nothing to mend, and here a look costs less than mending
    strongest = torch.zeros_like(used).scatter(1, score.argmax(dim=1, keepdim=True), 1.0)
    return torch.where(used.sum(dim=1, keepdim=True) > 0, used, strongest)
