"""What the controls of a method's gates share: its trained network, with a rule in the place of each gate."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor, nn

from dyncomp.core import Backbone, Batches, Method, Net, Op, Output, Source, Stage
from dyncomp.core.modes import evaluating
from dyncomp.core.rules import Rule
from dyncomp.errors import CannotAttach, DyncompError, InvalidValue
from dyncomp.registry import METHODS
from dyncomp.spec import name_of, spec_of

TRAINED = "method"
"""the name, among the sources, of the network that a control is a control of"""


@dataclass(frozen=True)
class Usage:
    """What a trained network's gates did on the training split.

    `rates` and `weights`, by site: the share (R,) of the images that use each unit, of those that get there, and the
    mean weight (R,) with which they do. `macs`: the mean of an image's multiply-adds.
    """

    rates: Mapping[str, Tensor]
    weights: Mapping[str, Tensor]
    macs: float


class Control(Method):
    """A method's trained network whose gates are replaced by rules, and that is trained on, at the method's expense.

    It begins with the weights of the method's network as that was trained, and goes through the method's longest stage
    once more, without what the loss says of gates, for a `share` of the budget at most: so it has had more training
    than the method. The learning rate is `rate` of the recipe's, also where the method fine-tunes at a lower one, for
    what a control has to learn anew does not depend on that; where the stage has Adam, it is `rate` of Adam's.
    """

    rule: ClassVar[type[Rule]]
    share: ClassVar[float]
    rate: ClassVar[float]

    of: str
    """spec of the method whose gates are replaced"""

    def __post_init__(self) -> None:
        super().__post_init__()
        try:
            inner = self.inner
        except DyncompError as error:
            raise type(error)(f"{name_of(self)}: of: {error}") from None
        if isinstance(inner, Control):
            raise InvalidValue(f"{name_of(self)}: of={self.of!r} is a control itself; give the method that has gates")

    @property
    def inner(self) -> Method:
        """The method that it is a control of."""
        method: Method = METHODS.create(self.of)
        return method

    @property
    def control_of(self) -> str:
        """See `Method.control_of`."""
        return spec_of(self.inner)

    def build(self, new: Callable[[], Backbone]) -> nn.Module:
        """The method's network with rules. Raises CannotAttach where it has no gates."""
        model = self.inner.build(new)
        gates = [op for op in model.modules() if isinstance(op, Op) and op.is_gate]
        if not gates:
            raise CannotAttach(
                f"{name_of(self)}: {self.of} has no gates that a control could replace; give a method that chooses "
                "blocks, filters, pixels or branches, such as skipnet"
            )
        for op in gates:
            op.follow(self.rule)
        return model

    def sources(self) -> Mapping[str, Source]:
        """The method's own, and its trained network."""
        sources = self.inner.sources()
        left = 1 - sum(one.counted for one in sources.values())
        own = {name: replace(one, counted=0.0) for name, one in sources.items()}
        return {**own, TRAINED: Source(self.of, counted=1 - min(self.share, left * self._longest.share))}

    @property
    def _longest(self) -> Stage:
        return max(self.inner.stages(), key=lambda stage: stage.share)

    def inherit(self, net: Net, trained: Mapping[str, Net], batches: Batches) -> None:
        """With the trained network's weights, and with rules that are settled by what its gates did."""
        method = trained[TRAINED]
        self.inner.inherit(net, {name: one for name, one in trained.items() if name != TRAINED}, batches)
        known, own = _by_the_methods_names(method), _by_the_methods_names(net)
        with torch.no_grad():
            for name in own.keys() & known.keys():
                if own[name].shape == known[name].shape:
                    own[name].copy_(known[name])
            usage = watched(method, batches)
            for rule, site in zip(rules_of(net).values(), usage.rates, strict=True):
                rule.rates.copy_(usage.rates[site])
                if rule.weights is not None:
                    rule.weights.copy_(usage.weights[site])
            self.settle(net, usage)

    @abstractmethod
    def settle(self, net: Net, usage: Usage) -> None:
        """Set the rules, whose rates and weights are those that were seen."""

    def stages(self) -> Sequence[Stage]:
        """The method's longest stage, by the part of its loss that is not about gates."""
        adam = self._longest.adam and self.rate * self._longest.adam
        return (Stage("control", 1.0, _without_progress(self.inner), learning_rate=self.rate, adam=adam),)


def _without_progress(method: Method) -> Callable[[Output, Tensor, float], Tensor]:
    return lambda output, labels, progress: method.loss(output, labels)


def _by_the_methods_names(net: Net) -> dict[str, Tensor]:
    """A network's tensors as the method alone would call them; `random` puts a part in front of its network."""
    inside = "model.network." if hasattr(net.model, "network") else "model."
    return {name.removeprefix(inside): value for name, value in net.state_dict().items()}


def rules_of(net: Net) -> dict[str, Rule]:
    """The rules of a control's network by the site that each decides for, in the sites' order."""
    rules = {name: module for name, module in net.model.named_modules() if isinstance(module, Rule)}
    sites = {name: max((site for site in net.sites if name.startswith(f"{site}.")), key=len) for name in rules}
    by_site = {site: rules[name] for name, site in sites.items()}
    return {site: by_site[site] for site in net.sites if site in by_site}


def watched(net: Net, batches: Batches) -> Usage:
    """What the gates of a trained network do, over all batches."""
    gates = {site: op for site, op in net.sites.items() if op.is_gate}
    used, reached, weights, macs = dict[str, Tensor](), dict[str, Tensor](), dict[str, Tensor](), list[Tensor]()
    with evaluating(net):
        for images, _ in batches():
            output = net(images, sparse=True)
            macs.append(output.macs().cpu())
            for site, op in gates.items():
                decision = output.trace[site]
                here = op.wished(decision).double().sum(0).cpu()  # (R,)
                weight = (decision.used * decision.weight).double().sum(0).cpu()  # (U,)
                reach = output.trace.reach(site)
                there = reach.double().sum().cpu() if isinstance(reach, Tensor) else torch.tensor(float(len(images)))
                used[site] = used.get(site, 0.0) + here
                weights[site] = weights.get(site, 0.0) + weight
                reached[site] = reached.get(site, 0.0) + there
    rates = {site: used[site] / reached[site].clamp_min(1) for site in gates}
    means = {site: _mean(weights[site], used[site]) for site in gates}
    return Usage(rates, means, float(torch.cat(macs).mean()))


def _mean(weight: Tensor, used: Tensor) -> Tensor:
    """The mean weight (U,) of units by the images that use them; of a unit that none uses, that of all units."""
    if len(weight) != len(used):  # units that follow from others; their weights are not rules'
        return weight
    whole = weight.sum() / used.sum().clamp_min(1)
    return torch.where(used > 0, weight / used.clamp_min(1), whole)
