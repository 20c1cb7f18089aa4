"""Distillation: a student learns from a trained teacher's softened answers (Hinton et al. 2015, arXiv:1503.02531)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import ClassVar

from torch import Tensor, nn

from dyncomp.core import Backbone, Batches, Loss, Method, Net, Output, Point, Seen, Source, Stage
from dyncomp.core.losses import divergence
from dyncomp.core.teaching import teach
from dyncomp.errors import DyncompError, InvalidValue
from dyncomp.registry import METHODS, register_method
from dyncomp.spec import option

ENSEMBLE = "model_ensemble(members=3)"
TEACHER = "distill.teacher"
"""the teacher's name among the sources, and the key of what it says; a student may have a teacher of its own"""


@register_method("distill", paper="arXiv:1503.02531")
@dataclass(frozen=True)
class Distill(Method):
    """Trains any method as the student of a trained network of any method; the network is the student's alone.

    In every stage of the student its loss is (1 - alpha) * own loss + alpha * T^2 * KL(teacher || student), with both
    answers' logits divided by T (paper, section 2). What a dynamic student adds to its own loss, such as a budget, is
    weakened by 1 - alpha with it. An ensemble's logits are the logarithms of its mean probabilities. The teacher
    answers in evaluation mode, for the images as the student sees them. It is a cell of the same run, trained for the
    run's whole budget, or the network of a `checkpoint`; its training is not counted to the student, as in the paper.
    What keeps a student from collapse is its own method's.
    """

    examples: ClassVar[tuple[str, ...]] = (
        'distill(teacher="static", student="model_ensemble(members=2, cascade=True)", alpha=0.9)',
    )

    teacher: str | None = option(
        None, "spec of the teacher's method, in quotes; None: that of `checkpoint`, or model_ensemble(members=3)"
    )
    checkpoint: str = option("", "a trained teacher's checkpoint; '': none, the teacher is a cell of the run")
    student: str = option("static", "spec of the student's method, in quotes")
    temperature: float = option(4.0, "T, by which logits are divided in the soft loss", gt=0.0)
    alpha: float = option(0.5, "weight of the soft loss; the student's own has the rest", ge=0.0, lt=1.0)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.teacher is not None and self.checkpoint:
            raise InvalidValue(
                f"distill: teacher={self.teacher!r} beside checkpoint={self.checkpoint!r}, whose network is the "
                "teacher; give one of them"
            )
        _inner("teacher", self.teacher or ENSEMBLE)
        _inner("student", self.student)

    @property
    def _student(self) -> Method:
        return _inner("student", self.student)

    def build(self, new: Callable[[], Backbone]) -> nn.Module:
        """The student's network. Raises CannotAttach."""
        return self._student.build(new)

    def sources(self) -> Mapping[str, Source]:
        """The student's own, and the teacher."""
        return {**self._student.sources(), TEACHER: Source(self.teacher or ENSEMBLE, checkpoint=self.checkpoint)}

    def inherit(self, net: Net, trained: Mapping[str, Net], batches: Batches) -> None:
        """As the student begins, the teacher beside it."""
        self._student.inherit(net, {name: one for name, one in trained.items() if name != TEACHER}, batches)
        teach(net, trained[TEACHER], TEACHER)

    def loss(self, output: Output, labels: Tensor) -> Tensor:
        """What of the student's loss is not about gates, and the soft loss."""
        return self._distilled(lambda alone, classes, progress: self._student.loss(alone, classes), output, labels, 1.0)

    def stages(self) -> Sequence[Stage]:
        """The student's."""
        return [replace(stage, loss=partial(self._distilled, stage.loss)) for stage in self._student.stages()]

    def _distilled(self, own: Loss, output: Output, labels: Tensor, progress: float) -> Tensor:
        said = dict(output.said)
        teacher = said.pop(TEACHER)
        soft = divergence(output.logits, teacher, self.temperature)
        return (1 - self.alpha) * own(replace(output, said=said), labels, progress) + self.alpha * soft

    def points(self, net: Net, seen: Seen) -> Sequence[Point]:
        """The student's."""
        return self._student.points(net, seen)


def _inner(role: str, spec: str) -> Method:
    """The method of a spec within the spec. Raises InvalidValue, and what the registry raises, in one line."""
    try:
        method: Method = METHODS.create(spec)
    except DyncompError as error:
        raise type(error)(f"distill: {role}: {error}") from None
    if isinstance(method, Distill):
        raise InvalidValue(f"distill: {role}={spec!r} is itself a distillation; give another method")
    return method
