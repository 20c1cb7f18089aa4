"""The contract and the mechanism: what methods are made of. Knows no method's name."""

from dyncomp.core.backbone import Backbone, BackboneFamily, ResidualBlock
from dyncomp.core.cost import (
    Costs,
    Executed,
    SiteCost,
    count_executed_macs,
    execute_and_count,
    measure_costs,
    price,
)
from dyncomp.core.gated import Gated
from dyncomp.core.gates import FeedForwardGate, RecurrentGate, Router, shared_recurrence
from dyncomp.core.method import Method, Stage
from dyncomp.core.mixed import Mixed
from dyncomp.core.net import Net, Output
from dyncomp.core.op import Op, hard_decision
from dyncomp.core.trace import Decision, Trace

__all__ = [
    "Backbone",
    "BackboneFamily",
    "Costs",
    "Decision",
    "Executed",
    "FeedForwardGate",
    "Gated",
    "Method",
    "Mixed",
    "Net",
    "Op",
    "Output",
    "RecurrentGate",
    "ResidualBlock",
    "Router",
    "SiteCost",
    "Stage",
    "Trace",
    "count_executed_macs",
    "execute_and_count",
    "hard_decision",
    "measure_costs",
    "price",
    "shared_recurrence",
]
