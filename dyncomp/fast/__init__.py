"""What makes networks quick on a processor: folding, data-flow analysis, autotuning, fused layers, generated code.

The rest of the package uses what is named here and nothing else. To import it is to let layers with experts choose
their form by a trial; `disabled()` or DYNCOMP_FAST=0 switches all of it off.
"""

import dyncomp.fast.mixing.chooser  # noqa: F401 - fills the slot of layers with experts
from dyncomp.fast.deploy import deployed, folded, is_deployed, plainly_folded
from dyncomp.fast.folding import batch_norms
from dyncomp.fast.report import Available, available
from dyncomp.fast.switch import disabled, is_enabled, switch_off
from dyncomp.fast.tuning import by_last_ways, choices, in_turn

__all__ = [
    "Available",
    "available",
    "batch_norms",
    "by_last_ways",
    "choices",
    "deployed",
    "disabled",
    "folded",
    "in_turn",
    "is_deployed",
    "is_enabled",
    "plainly_folded",
    "switch_off",
]
