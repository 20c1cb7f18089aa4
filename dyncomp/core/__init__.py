"""The contract and the mechanism: what methods are made of. Knows no method's name."""

from dyncomp.core.backbone import Backbone, BackboneFamily, ResidualBlock, chain
from dyncomp.core.balance import categorical_information
from dyncomp.core.card import Card
from dyncomp.core.cost import (
    Costs,
    Executed,
    SiteCost,
    count_executed_macs,
    execute_and_count,
    measure_costs,
    price,
)
from dyncomp.core.deploy import deployed
from dyncomp.core.exits import Certainty, Exit, Judge, Voter
from dyncomp.core.filtered import Filtered, Switch, SwitchProducts
from dyncomp.core.filtering import with_switches
from dyncomp.core.gated import Gated
from dyncomp.core.gates import Attention, Concrete, FeedForwardGate, RecurrentGate, Router, open_bias, shared_recurrence
from dyncomp.core.initial import Source, adopt, pretrained
from dyncomp.core.masked import Masked, steps_of
from dyncomp.core.method import Method
from dyncomp.core.mixed import Mixed, is_channel_attention
from dyncomp.core.net import Net, Output
from dyncomp.core.op import Op, hard_decision
from dyncomp.core.planned import Planned
from dyncomp.core.points import Point, Seen
from dyncomp.core.routed import Routed
from dyncomp.core.stage import Batches, Loss, Stage
from dyncomp.core.trace import Decision, Trace
from dyncomp.core.usable import Prediction

__all__ = [
    "Attention",
    "Backbone",
    "BackboneFamily",
    "Batches",
    "Card",
    "Certainty",
    "Concrete",
    "Costs",
    "Decision",
    "Executed",
    "Exit",
    "FeedForwardGate",
    "Filtered",
    "Gated",
    "Judge",
    "Loss",
    "Masked",
    "Method",
    "Mixed",
    "Net",
    "Op",
    "Output",
    "Planned",
    "Point",
    "Prediction",
    "RecurrentGate",
    "ResidualBlock",
    "Routed",
    "Router",
    "Seen",
    "SiteCost",
    "Source",
    "Stage",
    "Switch",
    "SwitchProducts",
    "Trace",
    "Voter",
    "adopt",
    "categorical_information",
    "chain",
    "count_executed_macs",
    "deployed",
    "execute_and_count",
    "hard_decision",
    "is_channel_attention",
    "measure_costs",
    "open_bias",
    "pretrained",
    "price",
    "shared_recurrence",
    "steps_of",
    "with_switches",
]
