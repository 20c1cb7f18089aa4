"""Gates, ReLU, smaller maps and sequences of steps by machine code of our own, against torch's."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dyncomp.fast import codegen
from dyncomp.fast.codegen import (
    Activation,
    ActivationArgument,
    Argument,
    GateArgument,
    GatePlan,
    Layer,
    Number,
    Plan,
    SequenceArgument,
    Shape,
    Squash,
)
from dyncomp.fast.codegen.machine import Machine
from dyncomp.ops.shrink import Shrink

pytestmark = pytest.mark.skipif(codegen.this_machine() is None, reason="no machine code for this machine")

GATES = {
    "one layer": (37, 49, (Layer(37, 1),), 0),
    "hidden layer": (16, 300, (Layer(16, 16, relu=True), Layer(16, 2)), 0),
    "recurrent": (12, 64, (Layer(12, 10), Layer(10, 1)), 10),
    "large maps, summed in parts": (65, 40 * 41, (Layer(65, 3, relu=True), Layer(3, 2)), 0),
    "many channels": (530, 4, (Layer(530, 2),), 0),
}


def machine(vector_bytes: int) -> Machine:
    here = codegen.this_machine()
    assert here is not None
    return replace(here, vector_bytes=vector_bytes)


class Reference:
    """A gate's weights, and what torch makes of them."""

    def __init__(self, name: str, images: int) -> None:
        self.channels, self.pixels, self.layers, self.state = GATES[name]
        draw = torch.Generator().manual_seed(0)
        self.x = torch.randn(images, self.pixels, self.channels, generator=draw, dtype=torch.float64)
        self.weights = [torch.randn(a.outputs, a.inputs, generator=draw, dtype=torch.float64) for a in self.layers]
        self.biases = [torch.randn(a.outputs, generator=draw, dtype=torch.float64) for a in self.layers]
        torch.manual_seed(1)
        self.cell = nn.LSTMCell(max(1, self.state), max(1, self.state)).double()
        size = (2, images, max(1, self.state))
        self.hidden, self.memory = torch.randn(size, generator=draw, dtype=torch.float64).unbind()

    @torch.no_grad()
    def opens(self) -> tuple[Tensor, Tensor, Tensor]:
        """Where, and the cell's states."""
        value, states = self.x.mean(dim=1), (self.hidden, self.memory)
        for index, (layer, weight, bias) in enumerate(zip(self.layers, self.weights, self.biases, strict=True)):
            value = F.linear(value, weight, bias)
            value = value.relu() if layer.relu else value
            if self.state and index == 0:
                states = self.cell(value, states)
                value = states[0]
        where = value[:, 0] > 0 if value.shape[1] == 1 else value[:, 1] > value[:, 0]
        return where, *states

    @torch.no_grad()
    def packed(self) -> Tensor:
        """As the code reads them."""
        parts = list[Tensor]()
        for index, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            parts += [weight.t(), bias]
            if self.state and index == 0:
                cell = self.cell
                parts += [cell.weight_ih.t(), cell.weight_hh.t(), cell.bias_ih + cell.bias_hh]
        return torch.cat([part.reshape(-1) for part in parts])


@pytest.mark.parametrize("vector_bytes", [64, 16])
@pytest.mark.parametrize("images", [1, 7])
@pytest.mark.parametrize("name", GATES)
def test_a_gate_lists_the_images_it_opens_for(name: str, images: int, vector_bytes: int) -> None:
    gate = Reference(name, images)
    plan = GatePlan(gate.channels, gate.pixels, Number(torch.float64), machine(vector_bytes), gate.layers, gate.state)
    weights, sums = gate.packed(), torch.empty(images * plan.scratch, dtype=torch.float64)
    opens, hidden, memory = gate.opens()
    open_, rows, counts = (torch.full((images,), -1), torch.full((images,), -1), torch.full((5,), -1))
    memory_of = {
        GateArgument.X: gate.x,
        GateArgument.WEIGHTS: weights,
        GateArgument.SCRATCH: sums,
        GateArgument.OPEN: open_,
        GateArgument.ROWS: rows,
        GateArgument.COUNT: counts,
    }
    given = codegen.addresses(memory_of) | {GateArgument.IMAGES: images}
    code = codegen.compiled(plan)
    for threads in (1, 2):
        held = gate.hidden.clone(), gate.memory.clone()
        state = {GateArgument.HIDDEN: held[0].data_ptr(), GateArgument.MEMORY: held[1].data_ptr()}
        code.run(threads, {**given, **state, GateArgument.COUNTS: 2, GateArgument.COUNT_STEP: 3})
        assert open_.tolist() == opens.long().tolist()
        assert rows[: int(opens.sum())].tolist() == opens.nonzero().view(-1).tolist()
        assert counts.tolist() == [int(opens.sum()), -1, -1, int(opens.sum()), -1]
        if gate.state:
            torch.testing.assert_close(held[0], hidden, rtol=0, atol=1e-12)
            torch.testing.assert_close(held[1], memory, rtol=0, atol=1e-12)
    numbers = torch.linspace(-1, 1, images, dtype=torch.float64)
    state = {GateArgument.HIDDEN: gate.hidden.data_ptr(), GateArgument.MEMORY: gate.memory.data_ptr()}
    code.run(2, {**given, **state, GateArgument.COUNTS: 1, GateArgument.FORCED: numbers.data_ptr()})
    assert open_.tolist() == (numbers > 0).long().tolist()


@pytest.mark.parametrize("squash", ["sigmoid", "softmax"])
def test_a_router_shares_out(squash: Squash) -> None:
    gate = Reference("hidden layer", 5)
    plan = GatePlan(gate.channels, gate.pixels, Number(torch.float64), machine(64), gate.layers, 0, True, squash)
    value = F.linear(gate.x.mean(dim=1), gate.weights[0], gate.biases[0]).relu()
    logits = F.linear(value, gate.weights[1], gate.biases[1])
    wanted = logits.sigmoid() if squash == "sigmoid" else logits.softmax(dim=1)
    weights, sums, shares = gate.packed(), torch.empty(5 * plan.scratch, dtype=torch.float64), torch.zeros_like(wanted)
    memory = {
        GateArgument.X: gate.x,
        GateArgument.WEIGHTS: weights,
        GateArgument.SCRATCH: sums,
        GateArgument.SHARES: shares,
    }
    given = codegen.addresses(memory)
    codegen.compiled(plan).run(2, given | {GateArgument.IMAGES: 5})
    torch.testing.assert_close(shares, wanted, rtol=0, atol=1e-13)


@pytest.mark.parametrize("count", [1, 16, 37])
def test_what_is_negative_becomes_zero(count: int) -> None:
    y = torch.randn(3, count, dtype=torch.float64)
    y[0, 0] = torch.nan
    wanted = y.relu()
    given = {ActivationArgument.Y: y.data_ptr(), ActivationArgument.IMAGES: 2, ActivationArgument.NUMBERS: count}
    codegen.compiled(Activation(Number(torch.float64), machine(64))).run(2, given)
    torch.testing.assert_close(y[:2], wanted[:2], rtol=0, atol=0, equal_nan=True)
    assert not torch.equal(y[2], wanted[2]) or bool((y[2] >= 0).all())


@pytest.mark.parametrize("vector_bytes", [64, 16])
@pytest.mark.parametrize(("stride", "mean"), [(2, True), (2, False), (3, True)])
def test_maps_shrink_as_the_layer_says(stride: int, mean: bool, vector_bytes: int) -> None:
    layer, here, dtype = Shrink(stride, extra=7, mean=mean), machine(vector_bytes), torch.float64
    x = torch.randn(3, 11, 7, 8, dtype=dtype).contiguous(memory_format=torch.channels_last)
    plan = codegen.Pooling(11, 18, (7, 8), stride if mean else 1, stride, Number(dtype), here)
    y = torch.full((3, 18, *plan.output_size), torch.nan, dtype=dtype).contiguous(memory_format=torch.channels_last)
    given = {Argument.X: x.data_ptr(), Argument.Y: y.data_ptr(), Argument.IMAGES: 3}
    codegen.compiled(plan).run(2, given)
    torch.testing.assert_close(y, layer(x), rtol=0, atol=1e-14)


@pytest.mark.parametrize("vector_bytes", [64, 16])
@pytest.mark.parametrize(("window", "stride", "padding"), [(2, 2, 0), (3, 2, 1), (3, 3, 0), (2, 1, 0)])
def test_the_greatest_of_windows(window: int, stride: int, padding: int, vector_bytes: int) -> None:
    here, dtype = machine(vector_bytes), torch.float64
    x = torch.randn(3, 139, 7, 8, dtype=dtype).contiguous(memory_format=torch.channels_last)
    x[1, 5, 3, 3] = torch.nan
    plan = codegen.Pooling(139, 139, (7, 8), window, stride, Number(dtype), here, padding, greatest=True, whole=True)
    y = torch.full((3, 139, *plan.output_size), 7.0, dtype=dtype).contiguous(memory_format=torch.channels_last)
    given = {Argument.X: x.data_ptr(), Argument.Y: y.data_ptr(), Argument.IMAGES: 3}
    codegen.compiled(plan).run(2, given)
    torch.testing.assert_close(y, F.max_pool2d(x, window, stride, padding), rtol=0, atol=0, equal_nan=True)


def test_steps_run_one_after_the_other_and_tell_each_other() -> None:
    """A gate writes how many images the convolution behind it reads."""
    gate, here, dtype = Reference("one layer", 5), machine(64), torch.float64
    gate.biases = [torch.zeros(1, dtype=dtype)]  # so that images differ
    shape = Shape(37, 8, (7, 7), (3, 3), (1, 1), (1, 1), (1, 1))
    plan = Plan(shape, Number(dtype), here, experts=0)
    decides = GatePlan(37, 49, Number(dtype), here, gate.layers)
    kernel, bias = torch.randn(8, 37, 3, 3, dtype=dtype), torch.zeros(8, dtype=dtype)
    y = torch.full((5, 7, 7, 8), 5.0, dtype=dtype)
    tensors = [gate.packed(), torch.empty(5 * decides.scratch, dtype=dtype), plan.packed(kernel)]
    open_, rows = torch.zeros(5, dtype=torch.int64), torch.zeros(5, dtype=torch.int64)
    first, second = np.zeros(len(GateArgument), dtype=np.int64), np.zeros(len(Argument), dtype=np.int64)
    count = second[Argument.IMAGES :].ctypes.data
    first[: GateArgument.COUNT_STEP] = [
        *(gate.x.data_ptr(), 5, tensors[0].data_ptr(), tensors[1].data_ptr()),
        *(open_.data_ptr(), rows.data_ptr(), count, 1),
    ]
    for argument, value in (
        (Argument.X, gate.x.data_ptr()),
        (Argument.Y, y.data_ptr()),
        (Argument.WEIGHTS, tensors[2].data_ptr()),
        (Argument.BIAS, bias.data_ptr()),
        (Argument.ROWS_X, rows.data_ptr()),
        (Argument.ROWS_Y, rows.data_ptr()),
    ):
        second[argument] = value
    codes = codegen.compiled(decides).address, codegen.compiled(codegen.Convolution(plan)).address
    table = np.array([codes[0], first.ctypes.data, codes[1], second.ctypes.data], dtype=np.int64)
    steps = {SequenceArgument.STEPS: 2, SequenceArgument.TABLE: table.ctypes.data}
    codegen.compiled(codegen.Sequence()).run(2, steps)
    opens, *_ = gate.opens()
    assert 0 < int(opens.sum()) < 5
    images = gate.x.view(5, 7, 7, 37).permute(0, 3, 1, 2)
    wanted = torch.where(
        opens[:, None, None, None], F.conv2d(images, kernel, bias, padding=1), torch.tensor(5.0).double()
    )
    torch.testing.assert_close(y.permute(0, 3, 1, 2), wanted, rtol=0, atol=1e-11)
