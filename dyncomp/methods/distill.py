"""Distillation: a student learns from a teacher's softened answers (Hinton et al. 2015, arXiv:1503.02531)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from dyncomp.core import Backbone, Batches, Loss, Method, Net, Output, Point, Seen, Stage
from dyncomp.core.losses import divergence
from dyncomp.core.modes import evaluating
from dyncomp.errors import DyncompError, InvalidValue
from dyncomp.registry import METHODS, register_method
from dyncomp.spec import option

TEACHER = "distill.teacher"
"""under which name the teacher stands beside the student, and its logits are said; a student may have a `teacher`"""


@register_method("distill", paper="arXiv:1503.02531")
@dataclass(frozen=True)
class Distill(Method):
    """Trains any method as a teacher, then any method as its student; what is used and priced is the student alone.

    In every stage of the student its loss is (1 - alpha) * own loss + alpha * T^2 * KL(teacher || student), with both
    answers' logits divided by T (paper, section 2). What a dynamic student adds to its own loss, such as a budget, is
    weakened by 1 - alpha with it. An ensemble's logits are the logarithms of its mean probabilities. The teacher
    answers in evaluation mode, for the images as the student sees them; in its exits nobody leaves. The budget is one
    for both: the teacher's stages get `teacher_share` of it. What keeps a student from collapse is its own method's.
    """

    examples: ClassVar[tuple[str, ...]] = (
        'distill(teacher="static", student="model_ensemble(members=2, cascade=True)", alpha=0.9)',
    )

    teacher: str = option("model_ensemble(members=3)", "spec of the teacher's method, in quotes")
    student: str = option("static", "spec of the student's method, in quotes")
    temperature: float = option(4.0, "T, by which logits are divided in the soft loss", gt=0.0)
    alpha: float = option(0.5, "weight of the soft loss; the student's own has the rest", ge=0.0, lt=1.0)
    teacher_share: float = option(0.5, "of the budget, for the teacher", gt=0.0, lt=1.0)

    def __post_init__(self) -> None:
        super().__post_init__()
        _inner("teacher", self.teacher)
        _inner("student", self.student)

    def build(self, new: Callable[[], Backbone]) -> nn.Module:
        """The student's network, which the teacher's goes along with, but is no part of. Raises CannotAttach."""
        student = _inner("student", self.student).build(new)
        teacher = Net(_inner("teacher", self.teacher).build(new))
        vars(student)[TEACHER] = Teaching(teacher.requires_grad_(False))
        return student

    def stages(self) -> Sequence[Stage]:
        """The teacher's stages, then the student's."""
        teachers = [self._of_teacher(stage) for stage in _inner("teacher", self.teacher).stages()]
        return [*teachers, *(self._of_student(stage) for stage in _inner("student", self.student).stages())]

    def _of_teacher(self, stage: Stage) -> Stage:
        return replace(
            stage,
            name=f"teacher: {stage.name}",
            share=stage.share * self.teacher_share,
            prepare=stage.prepare and partial(_prepare_teacher, stage.prepare),
            trained=lambda net: stage.trained(_teacher(net)),
            pretrains=False,  # a checkpoint of the plain backbone goes into the student only
        )

    def _of_student(self, stage: Stage) -> Stage:
        return replace(
            stage,
            name=f"student: {stage.name}",
            share=stage.share * (1 - self.teacher_share),
            loss=partial(self._distilled, stage.loss),
            prepare=partial(_prepare_student, stage.prepare),
            trained=partial(_accompanied, stage.trained),
        )

    def _distilled(self, own: Loss, output: Output, labels: Tensor, progress: float) -> Tensor:
        said = dict(output.said)
        teacher = said.pop(TEACHER)
        soft = divergence(output.logits, teacher, self.temperature)
        return (1 - self.alpha) * own(replace(output, said=said), labels, progress) + self.alpha * soft

    def points(self, net: Net, seen: Seen) -> Sequence[Point]:
        """The student's."""
        return _inner("student", self.student).points(net, seen)


class Teaching:
    """A teacher beside its student's modules: no parameter, site or cost of the student's is the teacher's.

    As a forward hook of the student's Net it says the teacher's logits in each training pass.
    """

    def __init__(self, teacher: Net) -> None:
        self.net = teacher

    def begin(self, student: Net) -> None:
        """Let the student's passes be accompanied from now on."""
        if all(hook is not self for hook in student._forward_hooks.values()):
            student.register_forward_hook(self)

    def __call__(self, student: nn.Module, given: tuple[Any, ...], output: Output) -> Output | None:
        """The output with the teacher's logits (B, Y) for the same images; None, no change, outside of training."""
        if not (student.training and torch.is_grad_enabled()):
            return None
        images: Tensor = given[0]
        teacher = self.net.to(device=images.device, dtype=images.dtype)
        with evaluating(teacher):
            logits = teacher(images, decisions=_nobody_leaves(teacher, len(images)), record=False).logits
        return replace(output, said={**output.said, TEACHER: logits})


def _nobody_leaves(net: Net, images: int) -> dict[str, Any]:
    """Decisions for the sites whose thresholds nobody has calibrated."""
    sites = ((site, op) for site, op in net.sites.items() if not op.learns_to_decide)
    return {site: op.forced(torch.ones(images, op.units), torch.ones(images, op.units)) for site, op in sites}


def _teaching(net: Net) -> Teaching:
    teaching = vars(net.model)[TEACHER]
    assert isinstance(teaching, Teaching)
    return teaching


def _teacher(net: Net) -> Net:
    """The teacher, where the student is and in its precision."""
    like = next(net.parameters())
    return _teaching(net).net.to(device=like.device, dtype=like.dtype)


def _prepare_teacher(prepare: Callable[[Net, Batches], None], net: Net, batches: Batches) -> None:
    prepare(_teacher(net).eval(), batches)


def _prepare_student(prepare: Callable[[Net, Batches], None] | None, net: Net, batches: Batches) -> None:
    _teaching(net).begin(net)
    if prepare is not None:
        prepare(net, batches)


def _accompanied(trained: Callable[[Net], Net], net: Net) -> Net:
    """The network that a stage of the student trains, which need not be the student's own (a plain one at first)."""
    student = trained(net)
    _teaching(net).begin(student)
    return student


def _inner(role: str, spec: str) -> Method:
    """The method of a spec within the spec. Raises InvalidValue, and what the registry raises, in one line."""
    try:
        method: Method = METHODS.create(spec)
    except DyncompError as error:
        raise type(error)(f"distill: {role}: {error}") from None
    if isinstance(method, Distill):
        raise InvalidValue(f"distill: {role}={spec!r} is itself a distillation; give another method")
    return method
