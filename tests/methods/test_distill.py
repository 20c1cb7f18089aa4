"""Distillation: the soft loss by hand, a teacher that is no part of the student, and what the student begins with."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from dyncomp import build, create_method
from dyncomp.conformance import Case
from dyncomp.conformance.training import stages_train_what_they_claim
from dyncomp.core import Method, Net, Output, Seen
from dyncomp.core.initial import PLAIN
from dyncomp.core.losses import divergence
from dyncomp.errors import CannotAttach, DyncompError
from dyncomp.methods.distill import TEACHER, Distill
from dyncomp.registry import METHODS
from dyncomp.spec import parse_spec, spec_of

SMALL = {"classes": 5, "image_size": 16}
IMAGES = torch.randn(6, 3, 16, 16, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
LABELS = torch.arange(6) % 5


def trained(method: Method, backbone: str = "cifar_resnet8") -> dict[str, Net]:
    """A network in float64 for each source of the method, each with weights of its own."""
    sources = enumerate(method.sources().items(), start=1)
    return {name: build(one.method, backbone, seed=seed, **SMALL).double() for seed, (name, one) in sources}


def begun(method: Distill, backbone: str = "cifar_resnet8") -> tuple[Net, Net]:
    """The student's network in float64 as its training begins, and its teacher."""
    net, given = build(method, backbone, **SMALL).double(), trained(method, backbone)
    method.inherit(net, given, lambda: [(IMAGES, LABELS)])
    return net, given[TEACHER]


def soft_loss(student: Sequence[float], teacher: Sequence[float], t: float) -> float:
    """T^2 * sum_y p_y * log(p_y / q_y), p and q softmax of logits / T (paper, eq. 1)."""
    p = [math.exp(z / t) / sum(math.exp(other / t) for other in teacher) for z in teacher]
    q = [math.exp(z / t) / sum(math.exp(other / t) for other in student) for z in student]
    return t**2 * sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))


@pytest.mark.parametrize("temperature", [1.0, 4.0, 20.0])
def test_the_soft_loss_is_the_papers(temperature: float) -> None:
    generator = torch.Generator().manual_seed(0)
    student, teacher = torch.randn(2, 7, 5, generator=generator) * 3
    rows = zip(student.tolist(), teacher.tolist(), strict=True)
    expected = sum(soft_loss(ours, theirs, temperature) for ours, theirs in rows) / 7
    assert float(divergence(student, teacher, temperature)) == pytest.approx(expected, rel=1e-4)
    assert float(divergence(student, student, temperature)) == pytest.approx(0.0, abs=1e-6)


def test_hot_distillation_matches_logits() -> None:
    """Paper, eq. 4: for high T the gradient is (z - v) / (N T^2) of centred logits; T^2 cancels with the weight."""
    generator = torch.Generator().manual_seed(0)
    student, teacher = (torch.randn(4, 5, generator=generator) for _ in range(2))
    student = (student - student.mean(1, keepdim=True)).requires_grad_()
    teacher = teacher - teacher.mean(1, keepdim=True)
    (gradient,) = torch.autograd.grad(divergence(student, teacher, 300.0), student)
    torch.testing.assert_close(gradient, (student.detach() - teacher) / 5 / 4, rtol=0.05, atol=2e-3)


@pytest.mark.parametrize("alpha", [0.0, 0.3, 0.9])
def test_the_students_loss_weighs_its_own_and_the_soft_one(alpha: float) -> None:
    method = Distill(alpha=alpha, temperature=3.0)
    net, _ = begun(method)
    (stage,) = method.stages()
    output = net.train()(IMAGES)
    own, soft = F.cross_entropy(output.logits, LABELS), divergence(output.logits, output.said[TEACHER], 3.0)
    for loss in (stage.loss(output, LABELS, 0.5), method.loss(output, LABELS)):
        torch.testing.assert_close(loss.double(), (1 - alpha) * own + alpha * soft, rtol=1e-5, atol=1e-6)


def test_the_loss_without_gates_is_the_students_without_gates_and_the_soft_one() -> None:
    method = Distill(teacher="static", student="skipnet(target=0.3)", alpha=0.25)
    net, _ = begun(method)
    output = net.train()(IMAGES)
    own, soft = F.cross_entropy(output.logits, LABELS), divergence(output.logits, output.said[TEACHER], 4.0)
    wanted = 0.75 * own + 0.25 * soft
    torch.testing.assert_close(method.loss(output, LABELS).double(), wanted, rtol=1e-5, atol=1e-6)
    with_budget = method.stages()[0].loss(output, LABELS, 1.0)
    assert float((with_budget - wanted).detach()) > 0.1


@pytest.mark.parametrize("spec", ["model_ensemble(members=2)", "model_ensemble(members=2, threshold=0.0)"])
def test_the_teacher_answers_as_it_would_in_use(spec: str) -> None:
    net, teacher = begun(Distill(teacher=spec))
    before = {name: value.clone() for name, value in teacher.state_dict().items()}
    said = net.train()(IMAGES).said[TEACHER]
    assert not said.requires_grad
    assert all(torch.equal(value, before[name]) for name, value in teacher.state_dict().items())
    members = [voter.member for voter in teacher.modules() if hasattr(voter, "member")]
    answers = [member(IMAGES).softmax(1) for member in members]
    wanted = answers[0] if "threshold" in spec else (answers[0] + answers[1]) / 2  # there everybody leaves at once
    torch.testing.assert_close(said.softmax(1), wanted.detach(), rtol=0, atol=1e-12)


@torch.no_grad()
def test_the_network_is_the_students_alone() -> None:
    net, alone = build("distill", "cifar_resnet14", **SMALL), build("static", "cifar_resnet14", **SMALL)
    assert net.costs == alone.costs
    images = IMAGES.float()
    torch.testing.assert_close(net(images).logits, alone(images).logits)
    net, _ = begun(Distill(), "cifar_resnet14")
    assert list(net.state_dict()) == list(alone.state_dict())
    assert [name for name, _ in net.named_modules()] == [name for name, _ in alone.named_modules()]
    assert net.origins == alone.origins
    assert net.eval()(IMAGES).said.keys() == alone.eval()(images).said.keys()


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ({"teacher": "snapshot_ensemble(cycles=2, members=2)"}, ("snapshot_ensemble(cycles=2, members=2)", "")),
        ({"checkpoint": "teacher.safetensors"}, ("model_ensemble(members=3)", "teacher.safetensors")),
        ({}, ("model_ensemble(members=3)", "")),
    ],
)
def test_the_teacher_is_a_source_beside_the_students_own(given: dict[str, str], wanted: tuple[str, str]) -> None:
    method = Distill(student="fbs", **given)
    sources = dict(method.sources())
    teacher = sources.pop(TEACHER)
    assert (teacher.share, teacher.counted) == (1.0, 0.0)
    assert (teacher.method, teacher.checkpoint) == wanted
    student = create_method("fbs")
    assert sources == dict(student.sources()) != {}
    names = [(stage.name, stage.share, stage.sampling) for stage in method.stages()]
    assert names == [(stage.name, stage.share, stage.sampling) for stage in student.stages()]


def test_the_student_begins_as_it_would_alone() -> None:
    method, student = Distill(teacher="static", student="fbs"), create_method("fbs")
    net, alone = (build(one, "cifar_resnet8", **SMALL).double() for one in (method, student))
    given = trained(method)
    method.inherit(net, given, list)
    student.inherit(alone, {PLAIN: given[PLAIN]}, list)
    theirs = alone.state_dict()
    assert all(torch.equal(value, theirs[name]) for name, value in net.state_dict().items())


def test_a_student_may_have_a_teacher_of_its_own() -> None:
    method = Distill(teacher="static", student="laudnet")
    net, given = build(method, "cifar_resnet8", **SMALL).double(), trained(method)
    method.inherit(net, given, list)
    said = net.train()(IMAGES).said
    for name, teacher in (("teacher", given[PLAIN]), (TEACHER, given[TEACHER])):
        torch.testing.assert_close(said[name], teacher(IMAGES).logits)
    assert not torch.equal(said["teacher"], said[TEACHER])


def test_the_students_own_loss_sees_what_it_would_see_alone() -> None:
    seen: list[set[str]] = []
    method = Distill(teacher="static", student="model_ensemble(members=2, cascade=True)")

    def own(output: Output, labels: Tensor, progress: float) -> Tensor:
        seen.append(set(output.said))
        return torch.zeros(())

    net, _ = begun(method)
    method._distilled(own, net.train()(IMAGES), LABELS, 0.0)
    assert seen == [{"members", "members.score", "members.head", "members.rest"}]


def test_specs_within_specs_read_back() -> None:
    text = 'distill(teacher="model_ensemble(members=2)", student="skipnet(gate=\'ff1\')", alpha=0.3)'
    method = create_method(text)
    assert METHODS.create(spec_of(method)) == method
    assert create_method(str(parse_spec(text))) == method
    assert method.student == "skipnet(gate='ff1')"


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ('distill(teacher="static", checkpoint="a.safetensors")', "distill: teacher='static' beside checkpoint="),
        ('distill(teacher="resnot")', "distill: teacher: unknown method 'resnot'"),
        ('distill(student="skipnet(targt=0.5)")', "distill: student: .*targt"),
        ('distill(teacher="model_ensemble(members=1)")', "distill: teacher: model_ensemble: members=1"),
        ('distill(student="static(")', "distill: student: .*static"),
        ('distill(student="static, skipnet")', "distill: student: .* 2 specs"),
        ('distill(student="distill")', "distill: student='distill' is itself a distillation"),
        ('distill(teacher="distill")', "distill: teacher='distill' is itself a distillation"),
        ("distill(alpha=1.0)", "alpha=1.0"),
        ("distill(temperature=0)", "temperature=0"),
    ],
)
def test_what_is_wrong_inside_is_said_in_one_line(spec: str, said: str) -> None:
    with pytest.raises(DyncompError, match=said) as caught:
        create_method(spec)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("role", ["teacher", "student"])
@pytest.mark.parametrize("name", [entry.name for entry in METHODS.entries() if entry.name != "distill"])
def test_any_method_is_a_teacher_and_a_student(name: str, role: str) -> None:
    inner = {"teacher": "static", "student": "static", role: name}
    method = Distill(**inner)
    stages_train_what_they_claim(Case(method, "cifar_resnet8"))
    net, _ = begun(method)
    student = create_method(inner["student"])
    assert [stage.name for stage in method.stages()] == [stage.name for stage in student.stages()]
    assert TEACHER in net.train()(IMAGES).said
    with torch.no_grad():
        assert TEACHER not in net.eval()(IMAGES).said  # in use nothing of the teacher's is there


def test_a_student_that_finds_no_place_says_so() -> None:
    with pytest.raises(CannotAttach, match=r"^skipnet: mobilenet_v1"):
        build('distill(student="skipnet")', "mobilenet_v1(width=0.25)", **SMALL)


@torch.no_grad()
def test_the_operating_points_are_the_students() -> None:
    student = "model_ensemble(members=2, cascade=True)"
    method = Distill(teacher="static", student=student)
    net = build(method, "cifar_resnet8", **SMALL)
    output = net(IMAGES.float(), sparse=False)
    seen = Seen(LABELS, output.logits, output.said)
    assert method.points(net, seen) == create_method(student).points(net, seen) != ()
