"""The check of a method's stages: what is said to learn gets a gradient, and nothing else does."""

from __future__ import annotations

from fnmatch import fnmatchcase

import torch
from torch import Tensor

from dyncomp.conformance.case import Case, NotConforming
from dyncomp.core import Net, Stage, measure_costs
from dyncomp.fast import in_turn

BATCHES = 3
"""How many batches a parameter has to show a gradient that is not zero throughout."""


def stages_train_what_they_claim(case: Case) -> None:
    """In each stage every parameter that it claims gets a finite gradient that is not zero throughout, others none.

    Every pattern of a stage names some parameter; the stages' shares add up to 1.
    """
    stages = case.method.stages()
    total = sum(stage.share for stage in stages)
    if abs(total - 1) > 1e-9:
        raise NotConforming(f"the stages' shares add up to {total}, not to 1")
    for stage in stages:
        _check_stage(case, stage)


def _check_stage(case: Case, stage: Stage) -> None:
    net = _begun(case, stage)
    names = [name for name, _ in net.named_parameters()]
    for pattern in stage.learns:
        if not any(fnmatchcase(name, pattern) for name in names):
            raise NotConforming(f"stage {stage.name}: no parameter is called {pattern}")
    for name, parameter in net.named_parameters():
        parameter.requires_grad_(stage.trains(name))
    silent = {name for name in names if stage.trains(name)}
    for batch in range(BATCHES):
        if silent:
            _backward(case, net, stage, batch)
            gradients = [(name, net.get_parameter(name).grad) for name in silent]
            silent -= {name for name, gradient in gradients if gradient is not None and bool(gradient.any())}
    if silent:
        raise NotConforming(f"stage {stage.name}: the gradient of {min(silent)} is zero throughout")


def _begun(case: Case, stage: Stage) -> Net:
    """The network that the stage trains, as its training begins."""
    net = case.fresh()

    def batches() -> list[tuple[Tensor, Tensor]]:
        return [(case.images(seed=batch), case.labels()) for batch in range(BATCHES)]

    with in_turn():
        case.method.inherit(net, {name: case.build(one.method) for name, one in case.method.sources().items()}, batches)
        if stage.prepare is not None:
            stage.prepare(net, batches)
    net = net.double().train()
    if net.costs is None:
        net.costs = measure_costs(net, case.images()[:1])
    stage.hold_batch_norms(net)
    net.sampling = stage.sampling
    if stage.adjust is not None:
        stage.adjust(net, 0.5)  # at the end noise may be cold, and then only rare draws have a gradient
    return net


def _backward(case: Case, net: Net, stage: Stage, batch: int) -> None:
    torch.manual_seed(batch)
    net.zero_grad(set_to_none=True)
    with in_turn():
        loss = stage.loss(net(case.images(seed=batch)), case.labels(), 1.0)
    loss.backward()  # type: ignore[no-untyped-call]
    for name, parameter in net.named_parameters():
        gradient = parameter.grad
        if stage.trains(name) and (gradient is None or not bool(gradient.isfinite().all())):
            raise NotConforming(f"stage {stage.name}: {name} gets no finite gradient")
        if not stage.trains(name) and gradient is not None:
            raise NotConforming(f"stage {stage.name}: {name} gets a gradient but is not claimed")
