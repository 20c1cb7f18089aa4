"""Networks with decisions: passes, costs, and the interface of methods; independent of ops, methods and fast path."""

from dyncomp.core.backbone import Backbone, BackboneFamily, ResidualBlock, chain
from dyncomp.core.card import Card
from dyncomp.core.initial import Source, adopt, pretrained
from dyncomp.core.measure import Executed, count_executed_macs, execute_and_count, measure_costs
from dyncomp.core.method import Method
from dyncomp.core.net import Net, Output
from dyncomp.core.op import Op, hard_decision
from dyncomp.core.points import Point, Seen
from dyncomp.core.pricing import Costs, SiteCost, price
from dyncomp.core.stage import Batches, Loss, Stage
from dyncomp.core.trace import Decision, Trace
from dyncomp.core.usable import Prediction

__all__ = [
    "Backbone",
    "BackboneFamily",
    "Batches",
    "Card",
    "Costs",
    "Decision",
    "Executed",
    "Loss",
    "Method",
    "Net",
    "Op",
    "Output",
    "Point",
    "Prediction",
    "ResidualBlock",
    "Seen",
    "SiteCost",
    "Source",
    "Stage",
    "Trace",
    "adopt",
    "chain",
    "count_executed_macs",
    "execute_and_count",
    "hard_decision",
    "measure_costs",
    "pretrained",
    "price",
]
