"""Switches as generated code: from features to the filters that each image uses."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from dyncomp.fast import codegen
from dyncomp.fast.codegen import SwitchArgument
from dyncomp.fast.fusion.part import Need
from dyncomp.fast.fusion.step_table import Given
from dyncomp.fast.memory import for_code
from dyncomp.fast.mixing.generated import can_read
from dyncomp.ops.filtered import SwitchDescription


@dataclass(frozen=True, eq=False)
class SwitchCode:
    """A switch's code for features of one size, and its weights in the operand layout of the code.

    `base` and `shift`, (filters,), are what the convolution and the layers behind it add to each filter.
    """

    plan: codegen.SwitchPlan
    code: codegen.Code
    weights: Tensor
    base: Tensor
    shift: Tensor

    @staticmethod
    def of(
        description: SwitchDescription, image: torch.Size, picks: bool, base: Tensor, shift: Tensor
    ) -> SwitchCode | None:
        """For images (C, H, W); None where there is no code. `picks`: each image has some of the channels only."""
        here, layer, dtype = codegen.this_machine(), description.layer, base.dtype
        weight, bias = layer._parameters.get("weight"), layer._parameters.get("bias")
        given = [weight, bias, base, shift]
        known = weight is not None and all(can_read(each) and (each is None or each.dtype == dtype) for each in given)
        if here is None or weight is None or not known or weight.shape[1] != image[0] or len(shift) % len(weight):
            return None
        units, number = len(weight), codegen.Number(dtype)
        size = len(shift) // units
        features = image[0], image[1:].numel(), number, here
        choice = description.keep, description.reads_magnitudes, description.weighted
        plan = codegen.SwitchPlan(*features, units, size, *choice, picks)
        with torch.inference_mode(False), torch.no_grad():
            groups = [sum(group) for group in codegen.groups_of(units, plan.lanes)]
            parts = [part.t().reshape(-1) for part in torch.split(weight, groups)]
            packed = torch.cat([*parts, weight.new_zeros(units) if bias is None else bias])
            return SwitchCode(
                plan, codegen.compiled(plan), for_code(packed), for_code(base.clone()), for_code(shift.clone())
            )

    def needs(self) -> Iterator[Need]:
        """Scratch memory of the code."""
        filters = self.plan.filters
        yield from (Need("sums", self.plan.scratch), Need("logits", self.plan.units))
        yield from (Need("shifts", filters), Need("scales", filters))
        for turn in range(2):
            yield Need(f"filters {turn}", filters, torch.int64)
            yield Need(f"filter counts {turn}", 1, torch.int64)

    def given(self, source: str, turn: int) -> Given:
        """Arguments that are the same in every pass, for features in slot `source`; `turn` selects the list slots."""
        return {
            SwitchArgument.X: source,
            SwitchArgument.IMAGES: "images",
            SwitchArgument.WEIGHTS: self.weights.data_ptr(),
            SwitchArgument.SCRATCH: "sums",
            SwitchArgument.LOGITS: "logits",
            SwitchArgument.INPUTS: f"filters {1 - turn}",
            SwitchArgument.INPUT_COUNTS: f"filter counts {1 - turn}",
            SwitchArgument.OUTPUTS: f"filters {turn}",
            SwitchArgument.OUTPUT_COUNTS: f"filter counts {turn}",
            SwitchArgument.BASE: self.base.data_ptr(),
            SwitchArgument.SHIFT: self.shift.data_ptr(),
            SwitchArgument.SHIFTS: "shifts",
            SwitchArgument.SCALES: "scales",
        }
