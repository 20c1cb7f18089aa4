"""Convolutions as machine code that is made for their shapes when they are first needed, by LLVM, without a compiler.

What no library's convolution does, and what skipping needs to save time: kernels mixed for each image while they stay
in cache, images picked out of a batch and written back to their places, in one pass. Numbers lie channels-last.
"""

from dyncomp.core.native.activation import activation_for
from dyncomp.core.native.build import Arguments, Code
from dyncomp.core.native.convolution import code_for
from dyncomp.core.native.emit import Number
from dyncomp.core.native.finish import Finish, FinishArgument, finish_for
from dyncomp.core.native.gate import gate_for
from dyncomp.core.native.gate_plan import GateArgument, GatePlan, Layer, Squash
from dyncomp.core.native.gradient import gradient_for
from dyncomp.core.native.gradient_plan import GradientPlan
from dyncomp.core.native.machine import this_machine
from dyncomp.core.native.order import Order, order_for
from dyncomp.core.native.piece import Argument
from dyncomp.core.native.plan import Plan
from dyncomp.core.native.pooling import Pooling, pooling_for
from dyncomp.core.native.sequence import StepWord, in_sequence
from dyncomp.core.native.shape import Shape
from dyncomp.core.native.switch import switch_for
from dyncomp.core.native.switch_plan import SwitchArgument, SwitchPlan, groups_of
from dyncomp.core.native.trial import works

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
