"""Fast execution on a CPU: BatchNorm folding, data-flow analysis, autotuning, layer fusion and generated machine code.

The rest of the package imports only the names in `__all__`. Importing this package registers the autotuner that chooses
the form of expert layers; `disabled()` or DYNCOMP_FAST=0 switches everything off.
"""

import dyncomp.fast.mixing.chooser  # noqa: F401 - registers the form chooser of expert layers
from dyncomp.fast.availability import Available, available, disabled, is_enabled, switch_off
from dyncomp.fast.deploy import deployed, folded, is_deployed, plainly_folded
from dyncomp.fast.folding import batch_norms
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
