"""Gates and routers as generated code: from features to decisions or mixing weights that later steps read."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain

import torch
from torch import Tensor

from dyncomp.fast import codegen
from dyncomp.fast.codegen import GateArgument
from dyncomp.fast.fusion.part import Need
from dyncomp.fast.fusion.step_table import Given
from dyncomp.fast.memory import for_code
from dyncomp.fast.mixing.generated import can_read
from dyncomp.ops.gates import GateDescription


@dataclass(frozen=True, eq=False)
class GateCode:
    """A gate's code for features of one size, and its weights in the operand layout of the code."""

    plan: codegen.GatePlan
    code: codegen.Code
    weights: Tensor

    @staticmethod
    def of(description: GateDescription, x: Tensor, shares: bool = False) -> GateCode | None:
        """For features like x (B, C, H, W); None where there is no code. `shares`: give numbers, no decision."""
        here = codegen.this_machine()
        parameters = tuple(_parameters(description))
        known = all("weight" in layer._parameters for layer in description.layers)  # else a parametrization makes it
        if here is None or not known or not all(can_read(each) and each.dtype == x.dtype for each in parameters):
            return None
        sizes = [tuple(layer.weight.flatten(1).shape) for layer in description.layers]
        layers = (codegen.Layer(i, o, relu) for (o, i), relu in zip(sizes, description.relus, strict=True))
        size = 0 if description.cell is None else description.cell.hidden_size
        number = codegen.Number(x.dtype)
        pixels, shares = x.shape[2:].numel(), shares or description.squash is not None
        plan = codegen.GatePlan(x.shape[1], pixels, number, here, tuple(layers), size, shares, description.squash)
        decides = sizes[-1][0] <= 2 or shares
        if sizes[0][1] != x.shape[1] or not decides or (size and not _fits(description, size)):
            return None
        with torch.inference_mode(False), torch.no_grad():
            weights = for_code(torch.cat([part.detach().reshape(-1) for part in _packed(description)]))
        return GateCode(plan, codegen.compiled(plan), weights)

    def needs(self) -> Iterable[Need]:
        """Scratch memory of the code."""
        yield Need("sums", self.plan.scratch)
        if self.plan.shares:
            yield Need("shares", self.plan.layers[-1].outputs)
        else:
            yield Need("open", 1, torch.int64)
            yield Need("rows", 1, torch.int64)

    def given(self, source: str) -> Given:
        """Arguments that are the same in every pass, for features in slot `source`."""
        return {
            GateArgument.X: source,
            GateArgument.IMAGES: "images",
            GateArgument.WEIGHTS: self.weights.data_ptr(),
            GateArgument.SCRATCH: "sums",
            GateArgument.OPEN: "open",
            GateArgument.ROWS: "rows",
            GateArgument.HIDDEN: "hidden",
            GateArgument.MEMORY: "memory",
            GateArgument.SHARES: "shares",
        }


def _fits(description: GateDescription, size: int) -> bool:
    """Whether the LSTM cell fits between the first layer and the second, and has biases."""
    cell = description.cell
    assert cell is not None  # else there is no size
    double_buffer = [description.layers[0].weight.shape[0], cell.input_size, description.layers[1].weight.shape[1]]
    return cell.bias and len(description.layers) == 2 and double_buffer == [size] * 3


def _parameters(description: GateDescription) -> Iterator[Tensor]:
    cell = () if description.cell is None else (description.cell,)
    for module in chain(description.layers, cell):
        yield from (parameter for parameter in module._parameters.values() if parameter is not None)


def _packed(description: GateDescription) -> Iterator[Tensor]:
    for index, layer in enumerate(description.layers):
        scale = description.temperature if index == len(description.layers) - 1 else 1.0
        bias = layer.weight.new_zeros(len(layer.weight)) if layer.bias is None else layer.bias
        yield layer.weight.flatten(1).t() / scale
        yield bias / scale
        if description.cell is not None and index == 0:
            cell = description.cell
            yield from (cell.weight_ih.t(), cell.weight_hh.t(), cell.bias_ih + cell.bias_hh)
