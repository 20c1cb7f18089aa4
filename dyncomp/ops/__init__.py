"""The ops: dense and sparse forms of each kind of decision, gates, and the placement of ops in a backbone."""

from dyncomp.ops.balance import categorical_information
from dyncomp.ops.exits import Certainty, Exit, Judge, Voter
from dyncomp.ops.filtered import Filtered, Switch, SwitchDescription
from dyncomp.ops.filtered_placement import with_switches
from dyncomp.ops.gated import Gated
from dyncomp.ops.gates import Attention, Concrete, FeedForwardGate, RecurrentGate, Router, open_bias, shared_recurrence
from dyncomp.ops.masked import Masked, steps_of
from dyncomp.ops.mixed import Mixed, is_channel_attention
from dyncomp.ops.planned import Planned
from dyncomp.ops.routed import Routed

__all__ = [
    "Attention",
    "Certainty",
    "Concrete",
    "Exit",
    "FeedForwardGate",
    "Filtered",
    "Gated",
    "Judge",
    "Masked",
    "Mixed",
    "Planned",
    "RecurrentGate",
    "Routed",
    "Router",
    "Switch",
    "SwitchDescription",
    "Voter",
    "categorical_information",
    "is_channel_attention",
    "open_bias",
    "shared_recurrence",
    "steps_of",
    "with_switches",
]
