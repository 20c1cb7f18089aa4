"""Convolutions as machine code that is made for their shapes when they are first needed, by LLVM, without a compiler.

What no library's convolution does, and what skipping needs to save time: kernels mixed for each image while they stay
in cache, images picked out of a batch and written back to their places, in one pass. Numbers lie channels-last.
"""

from dyncomp.fast.codegen.activation import activation_for
from dyncomp.fast.codegen.build import Arguments, Code
from dyncomp.fast.codegen.convolution import code_for
from dyncomp.fast.codegen.emit import Number
from dyncomp.fast.codegen.epilogue import Finish, FinishArgument, finish_for
from dyncomp.fast.codegen.gate import gate_for
from dyncomp.fast.codegen.gate_plan import GateArgument, GatePlan, Layer, Squash
from dyncomp.fast.codegen.gradient import gradient_for
from dyncomp.fast.codegen.gradient_plan import GradientPlan
from dyncomp.fast.codegen.machine import this_machine
from dyncomp.fast.codegen.order import Order, order_for
from dyncomp.fast.codegen.piece import Argument
from dyncomp.fast.codegen.plan import Plan
from dyncomp.fast.codegen.pooling import Pooling, pooling_for
from dyncomp.fast.codegen.sequence import StepWord, in_sequence
from dyncomp.fast.codegen.shape import Shape
from dyncomp.fast.codegen.switch import switch_for
from dyncomp.fast.codegen.switch_plan import SwitchArgument, SwitchPlan, groups_of
from dyncomp.fast.codegen.trial import works

__all__ = [
    "Argument",
    "Arguments",
    "Code",
    "Finish",
    "FinishArgument",
    "GateArgument",
    "GatePlan",
    "GradientPlan",
    "Layer",
    "Number",
    "Order",
    "Plan",
    "Pooling",
    "Shape",
    "Squash",
    "StepWord",
    "SwitchArgument",
    "SwitchPlan",
    "activation_for",
    "code_for",
    "finish_for",
    "gate_for",
    "gradient_for",
    "groups_of",
    "in_sequence",
    "order_for",
    "pooling_for",
    "switch_for",
    "this_machine",
    "works",
]
