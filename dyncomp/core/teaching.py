"""Distillation: the logits of a trained teacher in the output of a student that is being trained."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from dyncomp.core.modes import evaluating
from dyncomp.core.net import Net, Output

TEACHER = "teacher"
"""default key of the teacher's logits (B, Y) in `Output.said`"""


def teach(student: Net, teacher: Net, name: str = TEACHER) -> None:
    """Add the teacher's logits for the same images, under `name`, to the output of the student's training passes.

    The teacher is frozen, and runs in evaluation mode. It is no submodule of the student, so it is neither trained,
    saved nor priced with the student.
    """
    for handle, hook in list(student._forward_hooks.items()):
        if isinstance(hook, _Teaching) and hook.name == name:  # a later teacher replaces an earlier one
            del student._forward_hooks[handle]
    student.register_forward_hook(_Teaching(teacher.requires_grad_(False).eval(), name))


class _Teaching:
    """The forward hook of a student's Net."""

    def __init__(self, teacher: Net, name: str) -> None:
        self.teacher = teacher
        self.name = name

    def __call__(self, student: nn.Module, given: tuple[Any, ...], output: Output) -> Output | None:
        """The output with the teacher's logits (B, Y); None, for no change, unless the student is being trained."""
        if not (student.training and torch.is_grad_enabled()):
            return None
        images: Tensor = given[0]
        teacher = self.teacher.to(device=images.device, dtype=images.dtype)
        with evaluating(teacher):
            logits = teacher(images, record=False).logits
        return replace(output, said={**output.said, self.name: logits})
