"""The base class of ops: a decision, two equal forms that follow it, and a slot for a fused form."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from dyncomp.core.counter import MOVING, Part
from dyncomp.core.graphs import graph_form, is_traced
from dyncomp.core.rules import Rule
from dyncomp.core.tape import Taped
from dyncomp.core.trace import Decision
from dyncomp.errors import CannotAttach, CannotExport


class Fused(Protocol):
    """A fused form of an op, which `dyncomp.fast` puts into the slot `Op.fused` of a deployed network."""

    def __call__(self, op: Any, x: Any) -> Tensor | None:
        """The op's output for features x, equal to that of `decide` and `sparse`; None where the form is not available.

        Called at most once in a pass for the same features, before the op has decided. A form that needs the decision
        calls `op.settled(x)`, which notes the decision on the tape.
        """


class Op(Taped, ABC):
    """A site whose computation depends on the image: a decision, and a dense and a sparse form that follow it."""

    units: int
    """number of units U in a decision"""

    decides_anyway = False
    """whether `decide` computes more than the decision, so that it runs for forced decisions, too"""

    learns_to_decide = True
    """whether the decision is learnt; false for a threshold that is chosen after training"""

    judges_frames = False
    """whether an image that does not use the op's only unit counts as a frame without an answer"""

    takes_one_image = True
    """whether `branched` takes one image at a time, as a form with conditional operators does"""

    kept_by = "conditional operators"
    """what implements routes in the graph of `branched`, in words for the report of an export"""

    fused: Fused | None = None
    """a faster form than `sparse`, set in deployed networks; see `Fused`"""

    reads: Op | None = None
    """the op whose used units are the input channels of this one; the coupled cost depends on both; see `SiteCost`"""

    @abstractmethod
    def decide(self, x: Tensor) -> Decision:
        """The gate's own decision for features (B, ...); a forced decision may replace it."""

    @abstractmethod
    def dense(self, x: Tensor, decision: Decision) -> Tensor:
        """Run every unit for every image, and combine the outputs by the decision; differentiable."""

    @abstractmethod
    def sparse(self, x: Tensor, decision: Decision) -> Tensor:
        """Run only the units that the decision uses."""

    def branched(self, x: Tensor, decision: Decision) -> Tensor:
        """The routed form, for graphs that keep each image's route (see `graphs.py`).

        Raises CannotExport for an op without a routed form.
        """
        raise CannotExport(
            f"{self.site}: {type(self).__name__} has no form with branches in the graph; export it --dense, which runs "
            "every unit and is right for every image"
        )

    @abstractmethod
    def unit_parts(self) -> tuple[nn.Module | None, ...]:
        """For each unit the module that runs only when the unit is used; None for a unit without such a module."""

    @abstractmethod
    def least(self) -> Tensor:
        """The fewest units that an image may use, (U,) of 0 and 1."""

    def always(self) -> Tensor:
        """The units that every image uses, (U,) of 0 and 1; by default those of `least`."""
        return self.least()

    @abstractmethod
    def forced(self, used: Tensor, weight: Tensor) -> Decision:
        """An allowed decision for the requested units `used` and weights `weight`, both (B, U)."""

    @property
    def is_gate(self) -> bool:
        """Whether the choice of units is learnt: false, too, where every image uses all units."""
        with torch.device("cpu"):  # networks may be built on the meta device, whose tensors have no values
            return self.learns_to_decide and not bool(self.always().all())

    def follow(self, make: Callable[[int, bool], Rule]) -> Rule:
        """Replace the gate by the rule that `make(units, weighted)` creates; see `rules.py`.

        Raises CannotAttach for an op without a gate that a rule can replace.
        """
        raise CannotAttach(
            f"{type(self).__name__} has no gate that a rule could take the place of; give a method whose gates choose "
            "blocks, filters, pixels or branches, such as skipnet"
        )

    def wished(self, decision: Decision) -> Tensor:
        """The columns (B, R) of `decision.used` that a rule with R units decides; the others follow from them."""
        return decision.used

    def forward(self, x: Tensor) -> Tensor:
        """Map features to features, in the form that the tape requests and by the decision in effect."""
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
        """The decision in effect for features x, the gate's own or a forced one; the tape notes it."""
        tape, features = self.tape, x[0] if isinstance(x, tuple) else x
        if self.training and self.site in tape.forced and not self.decides_anyway:
            return tape.settle(self.site, tape.given(self.site, features))  # without running the gate
        decision: Decision = self.overhead(self.decide, x)
        given, wanted = decision.used.shape, (features.shape[0], self.units)
        if given != wanted:
            raise ValueError(f"{self.site}: decided {tuple(given)}; a decision is for (images, units) = {wanted}")
        return tape.settle(self.site, decision)

    def overhead(self, run: Callable[..., Any], *inputs: Any) -> Any:
        """Run a function, its cost metered as the site's overhead."""
        return self._metered(None, run, *inputs)

    def unit(self, unit: Part, run: Callable[..., Any], *inputs: Any) -> Any:
        """Run a unit of the site (`EACH`: all units at once, of equal cost; `COUPLED`: see `SiteCost`)."""
        return self._metered(unit, run, *inputs)

    def moving(self, run: Callable[..., Any], *inputs: Any) -> Any:
        """Run a function that only selects images, gathers them, or scatters results; metered as moving."""
        return self._metered(MOVING, run, *inputs)

    def outside(self, run: Callable[..., Any], *inputs: Any) -> Any:
        """Run a function of the overhead, its cost metered in the scope around the site."""
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
    """0/1 decisions from probabilities (B, U): thresholded at 1/2 or, if `sampling`, drawn.

    `used` has a straight-through gradient to the probability (Bengio et al. 2013, arXiv:1308.3432). `weight` has it
    only without sampling: a sampling gate learns from the output by its policy gradient.
    """
    chosen = torch.bernoulli(probability) if sampling else (probability > 0.5).to(probability)
    if not probability.requires_grad:
        return Decision(chosen, chosen, probability)
    chosen = chosen.detach()
    # the difference comes first: (chosen + p) - p would round, and decisions would no longer be exactly 0 or 1
    used = chosen + (probability - probability.detach())
    return Decision(used, chosen if sampling else used, probability)


def with_strongest(used: Tensor, score: Tensor) -> Tensor:
    """`used` (B, U), with the unit of the greatest score (B, U) for images that would use no unit."""
    if not (used.is_cuda or used.requires_grad or is_traced()) and bool((used.amax(dim=1) > 0).all()):
        return used  # on a CPU this check costs less than the operators below
    strongest = torch.zeros_like(used).scatter(1, score.argmax(dim=1, keepdim=True), 1.0)
    return torch.where(used.sum(dim=1, keepdim=True) > 0, used, strongest)
