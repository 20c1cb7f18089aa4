"""Switches, and what is left to do behind a convolution whose filters they switch, by machine code of our own."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from dyncomp.fast import codegen
from dyncomp.fast.codegen import Epilogue, EpilogueArgument, Number, SwitchArgument, SwitchPlan, groups_of
from dyncomp.fast.layers.compaction import Compaction

pytestmark = pytest.mark.skipif(codegen.this_machine() is None, reason="no machine code for this machine")

DOUBLE = Number(torch.float64)


def plan_for(
    units: int,
    size: int = 1,
    keep: int = 0,
    magnitudes: bool = False,
    weighted: bool = False,
    picks: bool = False,
    vector_bytes: int = 64,
    pixels: int = 30,
) -> SwitchPlan:
    here = codegen.this_machine()
    assert here is not None
    choice = units, size, keep, magnitudes, weighted, picks
    return SwitchPlan(21, pixels, DOUBLE, replace(here, vector_bytes=vector_bytes), *choice)


class Switched:
    """What a switch's code makes of images, and what torch does."""

    def __init__(self, plan: SwitchPlan, images: int, bias: float = 0.0, overruled: Tensor | None = None) -> None:
        self.plan, draw = plan, torch.Generator().manual_seed(0)
        self.x = torch.randn(images, plan.pixels, plan.channels, generator=draw, dtype=torch.float64)
        self.weight = torch.randn(plan.units, plan.channels, generator=draw, dtype=torch.float64)
        self.bias = torch.full((plan.units,), bias, dtype=torch.float64)
        self.base, self.shift = torch.randn(2, plan.filters, generator=draw, dtype=torch.float64).unbind()
        self.there = Compaction.of(
            (torch.rand(images, plan.channels, generator=draw, dtype=torch.float64) < 0.5).double()
        )
        if plan.picks:
            self.x = self.x * self.there.used[:, None]
        self.overruled = overruled
        self.forced_weights = torch.randn(images, plan.units, generator=draw, dtype=torch.float64)

    def run(self, threads: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Outputs, counts, shifts, scales."""
        plan, images = self.plan, len(self.x)
        x = torch.stack([one[:, order] for one, order in zip(self.x, self.there.order, strict=True)])
        x = x if plan.picks else self.x
        groups = [sum(group) for group in groups_of(plan.units, plan.lanes)]
        weights = torch.cat([part.t().reshape(-1) for part in self.weight.split(groups)] + [self.bias])
        sums, logits = x.new_empty(images * plan.scratch), x.new_empty(images, plan.units)
        outputs, counts = torch.full((images, plan.filters), -1), torch.full((images,), -1)
        shifts, scales = (x.new_full((images, plan.filters), torch.nan) for _ in range(2))
        memory = {
            SwitchArgument.X: x,
            SwitchArgument.WEIGHTS: weights,
            SwitchArgument.SCRATCH: sums,
            SwitchArgument.LOGITS: logits,
            SwitchArgument.INPUTS: self.there.order,
            SwitchArgument.INPUT_COUNTS: self.there.counts,
            SwitchArgument.OUTPUTS: outputs,
            SwitchArgument.OUTPUT_COUNTS: counts,
            SwitchArgument.BASE: self.base,
            SwitchArgument.SHIFT: self.shift,
            SwitchArgument.SHIFTS: shifts,
            SwitchArgument.SCALES: scales,
        }
        if self.overruled is not None:
            memory |= {SwitchArgument.FORCED: self.overruled, SwitchArgument.FORCED_WEIGHTS: self.forced_weights}
        given = codegen.addresses(memory)
        codegen.compiled(plan).run(threads, given | {SwitchArgument.IMAGES: images})
        return outputs, counts, shifts, scales

    def logits(self) -> Tensor:
        means = self.x.abs().mean(dim=1) if self.plan.magnitudes else self.x.mean(dim=1)
        return F.linear(means, self.weight, self.bias)

    def weights(self) -> Tensor:
        """(B, units)."""
        return self.logits().relu() if self.overruled is None else self.forced_weights

    def used(self) -> Tensor:
        """(B, units) bool."""
        logits = self.logits()
        if self.overruled is not None:
            return self.overruled > 0
        if self.plan.keep:
            best = logits.topk(self.plan.keep, dim=1).indices
            return torch.zeros_like(logits).scatter(1, best, 1.0) > 0
        none = (logits <= 0).all(dim=1, keepdim=True)
        strongest = torch.zeros_like(logits).scatter(1, logits.argmax(dim=1, keepdim=True), 1.0) > 0
        return torch.where(none, strongest, logits > 0)


CASES = {
    "units of one filter": (plan_for(64), 0.0, False),
    "groups of filters": (plan_for(13, size=3), 0.0, False),
    "some channels only": (plan_for(150, picks=True), 0.0, False),
    "narrow vectors": (plan_for(77, vector_bytes=32), 0.0, False),
    "groups of three widths": (plan_for(63, vector_bytes=64), 0.0, False),
    "groups of three widths, narrow": (plan_for(47, picks=True, vector_bytes=32), 0.0, False),
    "large maps, summed in parts": (plan_for(40, pixels=1000), 0.0, False),
    "none above 0": (plan_for(37, size=2), -100.0, False),
    "forced": (plan_for(37), 0.0, True),
    "magnitudes": (plan_for(37, magnitudes=True), -1.0, False),
    "weighted": (plan_for(37, size=2, weighted=True), 0.0, False),
    "top-k": (plan_for(70, keep=35), 0.0, False),
    "top-k, weighted": (plan_for(70, keep=35, magnitudes=True, weighted=True), 0.0, False),
    "top-k of few, weighted": (plan_for(5, keep=1, magnitudes=True, weighted=True), -100.0, False),
    "top-k, weighted, some channels": (
        plan_for(67, keep=66, magnitudes=True, weighted=True, picks=True, vector_bytes=32),
        0.0,
        False,
    ),
    "top-k, weighted, forced": (plan_for(37, size=2, keep=5, magnitudes=True, weighted=True), 0.0, True),
}


@pytest.mark.parametrize("images", [1, 5])
@pytest.mark.parametrize("name", CASES)
def test_a_switch_lists_the_filters_that_an_image_uses(name: str, images: int) -> None:
    plan, bias, overrules = CASES[name]
    numbers = torch.linspace(-1, 1, images * plan.units, dtype=torch.float64).view(images, -1).flip(1)
    numbers[:, 0] = 1.0
    switched = Switched(plan, images, bias, numbers if overrules else None)
    for threads in (1, 2):
        outputs, counts, shifts, scales = switched.run(threads)
        used = switched.used().repeat_interleave(plan.size, dim=1)
        weights = switched.weights().repeat_interleave(plan.size, dim=1)
        assert counts.tolist() == used.sum(dim=1).tolist()
        for i, count in enumerate(counts.tolist()):
            which = used[i].nonzero().view(-1)
            assert outputs[i, :count].tolist() == which.tolist()
            base = switched.base[which] * weights[i, which] if plan.weighted else 0.0
            torch.testing.assert_close(shifts[i, :count], switched.shift[which] + base, rtol=0, atol=1e-12)
            assert not shifts[i, count:].any()
            if plan.weighted:
                torch.testing.assert_close(scales[i, :count], weights[i, which], rtol=0, atol=1e-12)
                assert not scales[i, count:].any()


def test_of_units_alike_the_first_are_kept() -> None:
    switched = Switched(plan_for(20, keep=7), 2)
    switched.weight[:] = switched.weight[0]
    outputs, counts, *_ = switched.run(2)
    assert counts.tolist() == [7, 7]
    assert outputs[:, :7].tolist() == [list(range(7))] * 2


@pytest.mark.parametrize("relu", [False, True])
def test_outputs_are_scaled_and_shifted_in_place(relu: bool) -> None:
    here = codegen.this_machine()
    assert here is not None
    draw = torch.Generator().manual_seed(0)
    y = torch.randn(3, 6, 37, generator=draw, dtype=torch.float64)
    scales, shifts = (torch.randn(3, 37, generator=draw, dtype=torch.float64) for _ in range(2))
    wanted = y * scales[:, None] + shifts[:, None]
    plan = Epilogue(37, 6, DOUBLE, here, relu)
    memory = {EpilogueArgument.Y: y, EpilogueArgument.SCALES: scales, EpilogueArgument.SHIFTS: shifts}
    given = codegen.addresses(memory)
    codegen.compiled(plan).run(2, given | {EpilogueArgument.IMAGES: 3})
    torch.testing.assert_close(y, wanted.relu() if relu else wanted, rtol=0, atol=1e-14)
