"""The registered methods as parameters of tests that take long; methods that are like another have the mark `slow`."""

from __future__ import annotations

import pytest
from _pytest.mark import MarkDecorator, ParameterSet

from dyncomp import list_methods

LIKE = {
    "conditional_network": "hydranet",
    "distill": "static",
    "dynamic_conv": "condconv",
    "fixed": "skipnet",
    "frame_gate": "early_exit",
    "ladder": "static",
    "laudnet": "convnet_aig",
    "random": "skipnet",
    "snapshot_ensemble": "model_ensemble",
}
"""methods whose networks have the ops of another method's, which stands for them; a new method stands for itself"""
LARGE = ("resnet18", "resnet50", "efficientnet_b0", "mnasnet_a1", "mobilenet_v2")
"""backbones of many layers or millions of parameters, on which a case takes several seconds"""


def marks_of(method: str, backbone: str = "") -> list[MarkDecorator]:
    """`slow` for a method that another one stands for, and on a large backbone, with or without hyperparameters."""
    return [pytest.mark.slow] if method in LIKE or backbone.partition("(")[0] in LARGE else []


def methods() -> list[ParameterSet]:
    """All registered methods, one parameter each."""
    return [pytest.param(method, marks=marks_of(method)) for method in list_methods()]
