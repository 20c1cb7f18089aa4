"""Measures a built network: accuracy, multiply-adds, gate health, latency. Knows no method."""

from dyncomp.profile.allocator import keep_freed_memory
from dyncomp.profile.alone import Alone
from dyncomp.profile.audit import audit_operators
from dyncomp.profile.classes import by_class, mixtures
from dyncomp.profile.evaluation import (
    Evaluation,
    accuracy_with_exchanged_routes,
    count_executed,
    evaluate,
    in_batches,
)
from dyncomp.profile.forms import Form, Runner, as_timed, forms_of
from dyncomp.profile.gap import attribute
from dyncomp.profile.health import (
    GateHealth,
    distinct_routes,
    effective_routes,
    gate_health,
    gate_records,
    warnings_of,
)
from dyncomp.profile.latency import LatencyRounds, Until, measure_latency
from dyncomp.profile.load import allowed_processors
from dyncomp.profile.machine import environment
from dyncomp.profile.opinions import second_opinions
from dyncomp.profile.pictures import gallery
from dyncomp.profile.spent import spending
from dyncomp.profile.streams import stream_figures
from dyncomp.profile.team import Team, Timed
from dyncomp.profile.worker import Setting

__all__ = [
    "Alone",
    "Evaluation",
    "Form",
    "GateHealth",
    "LatencyRounds",
    "Runner",
    "Setting",
    "Team",
    "Timed",
    "Until",
    "accuracy_with_exchanged_routes",
    "allowed_processors",
    "as_timed",
    "attribute",
    "audit_operators",
    "by_class",
    "count_executed",
    "distinct_routes",
    "effective_routes",
    "environment",
    "evaluate",
    "forms_of",
    "gallery",
    "gate_health",
    "gate_records",
    "in_batches",
    "keep_freed_memory",
    "measure_latency",
    "mixtures",
    "second_opinions",
    "spending",
    "stream_figures",
    "warnings_of",
]
