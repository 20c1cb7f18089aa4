"""Bodies of residual blocks whose kernels are mixed for each image, as generated code for runs."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from dyncomp.core.backbone import ResidualBlock
from dyncomp.fast.layers.compiled import CompiledConvolution
from dyncomp.fast.layers.residual_body import BodyCode, layers_in_order, relus_of
from dyncomp.fast.mixing.chooser import form_among_layers
from dyncomp.fast.mixing.generated import GeneratedForm, packed_experts, zeros
from dyncomp.ops.experts import ExpertConv2d
from dyncomp.ops.gates import Attention, Router
from dyncomp.ops.mixed import Mixed

ROUTERS = (Router, Attention)
"""routers whose `description()` says how their weights are computed"""


def is_mixed_block(place: Mixed) -> bool:
    """Whether a block is a residual block of expert convolutions, with no biases to mix, that code can run."""
    block = place.block
    if type(block) is not ResidualBlock or type(block.activation) is not nn.ReLU or type(place.router) not in ROUTERS:
        return False
    shortcut = [layer for layer in layers_in_order(block.shortcut) if type(layer) is not nn.Identity]
    known = not shortcut or [type(layer) for layer in shortcut] == [ExpertConv2d]
    experts = [layer for layer in block.modules() if isinstance(layer, ExpertConv2d)]
    regular = relus_of(block.body, block.activation, ExpertConv2d) is not None
    return known and regular and all(layer.bias is None for layer in experts)


def convolutions_of(part: nn.Module) -> list[ExpertConv2d]:
    """The layers with experts, in order."""
    return [layer for layer in layers_in_order(part) if isinstance(layer, ExpertConv2d)]


def mixed_body(block: ResidualBlock, x: Tensor) -> BodyCode | None:
    """A body's code for features like x; None where another form is faster for one of its convolutions."""
    chain, like = list[CompiledConvolution](), x
    for convolution in convolutions_of(block.body):
        compiled = load_experts(convolution, like)
        if compiled is None:
            return None
        chain.append(compiled)
        like = compiled.new(x).fill_(1)  # ordinary numbers, since arithmetic on arbitrary memory may be slow
    relus = relus_of(block.body, block.activation, ExpertConv2d)
    return None if relus is None else BodyCode(chain, relus)


def load_experts(layer: ExpertConv2d, x: Tensor) -> CompiledConvolution | None:
    """Code for images like x with packed experts; None where another form is faster."""
    form = form_among_layers(layer, x)
    if not isinstance(form, GeneratedForm):
        return None
    plan = form.plan
    weights = packed_experts(plan, layer.weight, layer.kernel_shape)
    bias = zeros(plan.shape.outputs, x.dtype) if layer.shift is None else layer.shift
    return CompiledConvolution(
        plan, form.code, weights, bias, (), (), torch.Size((plan.shape.outputs, *plan.shape.output_size))
    )
