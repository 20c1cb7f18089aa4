"""Net: a backbone with ops, which maps images to logits and decisions. Every pass has its own tape."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from dyncomp.core.counter import Meter
from dyncomp.core.graphs import freezes_routes
from dyncomp.core.op import Op
from dyncomp.core.pricing import Costs, price
from dyncomp.core.tape import Tape, Taped, Tapes
from dyncomp.core.trace import Decision, Parent, Trace
from dyncomp.core.usable import Usable
from dyncomp.errors import CannotExport, InvalidValue


def _no_images(decisions: Mapping[str, Decision]) -> Output:
    raise RuntimeError("this output keeps no images to run again: it comes from a pass without a record, or from none")


@dataclass(frozen=True)
class Output:
    """The output of a pass: `logits` (B, Y), the `trace` of its decisions, and the costs that price them.

    `said`: values for losses and calibrations by key, such as answers of side heads and scores, from `Tape.say`.
    `again(decisions)` computes the output for the same images by other decisions, without gradients.
    """

    logits: Tensor
    trace: Trace
    costs: Costs | None
    said: Mapping[str, Tensor] = field(default_factory=dict)
    again: Callable[[Mapping[str, Decision]], Output] = _no_images
    image_shape: tuple[int, ...] = ()
    """(C, H, W) of the images; empty if unknown"""

    def macs(self) -> Tensor:
        """MACs of each image, (B,) float64, differentiable through the decisions.

        Raises RuntimeError for unknown costs, and for costs of images of another size.
        """
        return price(self._known_costs(), self.trace).to(self.logits.device)

    def share(self) -> Tensor:
        """Each image's MACs relative to those with every unit on and without overhead, (B,)."""
        return self.macs() / self._known_costs().without_overhead

    def _known_costs(self) -> Costs:
        if self.costs is None:
            raise RuntimeError("no costs yet: set net.costs = measure_costs(net, images[:1]) first")
        if self.image_shape and self.image_shape != self.costs.image_shape:
            raise RuntimeError(
                f"the costs are those of images {self.costs.image_shape}, these are {tuple(self.image_shape)}: set "
                "net.costs = measure_costs(net, images[:1]) first"
            )
        return self.costs


class Net(Usable):
    """A network with ops.

    `net(images)` runs the dense form in training and the sparse form in evaluation, unless `sparse` is given.
    `decisions` (site -> Decision over the whole batch) replaces the gates' own. With `record=False` the trace is empty.
    `origins` maps names in the state dict to the names that these tensors have in the plain backbone. `sampling`:
    whether ops draw their decisions in training; a stage sets it. The state of a pass is on its tape, so concurrent and
    nested passes are independent. `card`, `preprocess` and `predict` are defined in `usable.py`.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self._tapes = Tapes()
        self.sampling = False
        self.sites = {name: op for name, op in model.named_modules() if isinstance(op, Op)}
        self.parents = _parents(self.sites)
        self.costs: Costs | None = None
        self.origins: dict[str, str] = {}
        for name, module in model.named_modules():
            if isinstance(module, Taped):
                module.attach(name, self._tapes)

    def forward(
        self,
        images: Tensor,
        sparse: bool | None = None,
        decisions: Mapping[str, Decision] | None = None,
        record: bool = True,
        meter: Meter | None = None,
    ) -> Output:
        """Logits (B, Y) and trace of images (B, C, H, W). `meter` receives which part of which site runs.

        Raises ValueError for decisions of unknown sites or of a wrong shape, RuntimeError for a sparse pass in
        training, CannotExport for one in a tracer. Once costs are known, raises InvalidValue for anything but
        floating-point images with the network's channels.
        """
        if self.costs is not None and torch._C._get_tracing_state() is None:  # in a tracer, sizes may be tensors
            _check_images(images, self.costs.image_shape)
        sparse = not self.training if sparse is None else sparse
        if sparse and self.training:
            raise RuntimeError("the sparse form is for evaluation: call net.eval() first")
        if sparse and self.sites and freezes_routes():
            raise CannotExport(
                "traced in the sparse form, the network would send every image down the route of this one; write it by "
                "`dyncomp export` or dyncomp.export.export_network, or trace net(images, sparse=False).logits"
            )
        if decisions:
            self._check(decisions, len(images))
        tape = Tape(images.shape[0], sparse, record, decisions, self.sampling, meter)
        outer, self._tapes.current = self._tapes.current, tape
        try:
            logits = self.model(images)
        except RuntimeError:  # raised inside a layer: a wrong dtype gets a clearer error
            self._check_type(images)
            raise
        finally:
            self._tapes.current = outer
        if not record:
            return Output(logits, Trace({}, {}, tape.images), self.costs, tape.said)
        for site, op in self.sites.items():
            if site not in tape.decisions:  # no image reached the site
                nothing = logits.new_zeros(tape.images, op.units)
                tape.decisions[site] = Decision(nothing, nothing, nothing)
        trace = Trace({site: tape.decisions[site] for site in self.sites}, self.parents, tape.images)
        return Output(logits, trace, self.costs, tape.said, self._again(images, sparse), images.shape[1:])

    def _check_type(self, images: Tensor) -> None:
        """Raise InvalidValue if the dtype of images differs from that of the parameters, and autocast is off."""
        types = {parameter.dtype for parameter in self.parameters()}
        device = images.device.type
        if len(types) == 1 and images.dtype not in types and not torch.is_autocast_enabled(device):
            (wanted,) = types
            raise InvalidValue(
                f"images of {images.dtype}, and a network of {wanted}; give images.to({wanted}), or net.to"
                f"({images.dtype})"
            )

    @property
    def tape(self) -> Tape:
        """The tape of the current pass in this thread; outside a pass an idle one."""
        tape: Tape = self._tapes.current
        return tape

    def _again(self, images: Tensor, sparse: bool) -> Callable[[Mapping[str, Decision]], Output]:
        device = images.device.type
        low = torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)

        def again(decisions: Mapping[str, Decision]) -> Output:
            with torch.no_grad(), torch.autocast(device, dtype=torch.bfloat16, enabled=low):
                output: Output = self(images, sparse=sparse, decisions=decisions)
                return output

        return again

    def _check(self, decisions: Mapping[str, Decision], images: int) -> None:
        for site, decision in decisions.items():
            if site not in self.sites:
                raise ValueError(f"decisions for {site!r}, but the sites are {', '.join(self.sites) or 'none'}")
            wanted = (images, self.sites[site].units)
            if tuple(decision.used.shape) != wanted:
                raise ValueError(
                    f"{site}: decisions of shape {tuple(decision.used.shape)}; give (images, units) = {wanted}"
                )


def _check_images(images: Tensor, wanted: tuple[int, ...]) -> None:
    """Raise InvalidValue unless images are floats with the channels of `wanted` (C, H, W); H and W may differ."""
    if not isinstance(images, Tensor):
        raise InvalidValue(f"images are {type(images).__name__}; give a tensor (B, {', '.join(map(str, wanted))})")
    if images.dim() != len(wanted) + 1 or images.shape[1] != wanted[0]:
        raise InvalidValue(
            f"images of shape {tuple(images.shape)}; the network was built for (B, {', '.join(map(str, wanted))})"
        )
    if not images.is_floating_point():
        raise InvalidValue(
            f"images of type {str(images.dtype).removeprefix('torch.')}; give floats of the network's type, as "
            "net.preprocess makes them of bytes"
        )


def _parents(sites: Mapping[str, Op]) -> dict[str, Parent]:
    owner: dict[int, tuple[str, int]] = {}
    for site, op in sites.items():  # outer ops come first, so that the innermost op owns a module
        for unit, part in enumerate(op.unit_parts()):
            for module in part.modules() if part is not None else ():
                owner[id(module)] = (site, unit)
    return {site: owner.get(id(op)) for site, op in sites.items()}
