"""A trained network that teaches another one while that is trained."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from dyncomp.core.modes import evaluating
from dyncomp.core.net import Net, Output

TEACHER = "teacher"
"""the key under which a teacher's logits (B, Y) are said in the passes of its student's training"""


def teach(student: Net, teacher: Net, name: str = TEACHER) -> None:
    """Let the student's training passes say, under `name`, what the teacher answers to the same images.

    The teacher is frozen and answers as it would in use. It is no part of the student: neither trained, saved nor
    priced with it.
    """
    for handle, hook in list(student._forward_hooks.items()):
        if isinstance(hook, _Teaching) and hook.name == name:  # a later teacher takes the place of an earlier one
            del student._forward_hooks[handle]
    student.register_forward_hook(_Teaching(teacher.requires_grad_(False).eval(), name))


class _Teaching:
    """The forward hook of a student's Net."""

    def __init__(self, teacher: Net, name: str) -> None:
        self.teacher = teacher
        self.name = name

    def __call__(self, student: nn.Module, given: tuple[Any, ...], output: Output) -> Output | None:
        """The output with the teacher's logits (B, Y) for the same images; None, no change, outside of training."""
        if not (student.training and torch.is_grad_enabled()):
            return None
        images: Tensor = given[0]
        teacher = self.teacher.to(device=images.device, dtype=images.dtype)
        with evaluating(teacher):
            logits = teacher(images, record=False).logits
        return replace(output, said={**output.said, self.name: logits})
