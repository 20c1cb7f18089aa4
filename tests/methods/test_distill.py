"""Distillation: the soft loss by hand, a teacher that is no part of the student, and stages that train each in turn."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from dyncomp import build, create_method
from dyncomp.conformance import Case
from dyncomp.conformance.training import stages_train_what_they_claim
from dyncomp.core import Net, Output, Seen, Stage
from dyncomp.core.losses import divergence
from dyncomp.errors import CannotAttach, DyncompError
from dyncomp.methods.distill import TEACHER, Distill
from dyncomp.registry import METHODS
from dyncomp.spec import parse_spec, spec_of

SMALL = {"classes": 5, "image_size": 16}
IMAGES = torch.randn(6, 3, 16, 16, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
LABELS = torch.arange(6) % 5


def begun(method: Distill, stage: int, backbone: str = "cifar_resnet8") -> tuple[Net, Stage]:
    """The student's network in float64 as that stage begins."""
    net = build(method, backbone, **SMALL).double()
    chosen = method.stages()[stage]
    if chosen.prepare is not None:
        chosen.prepare(net, lambda: [(IMAGES, LABELS)])
    return net, chosen


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
    net, stage = begun(Distill(alpha=alpha, temperature=3.0), -1)
    output = net.train()(IMAGES)
    own, soft = F.cross_entropy(output.logits, LABELS), divergence(output.logits, output.said[TEACHER], 3.0)
    torch.testing.assert_close(
        stage.loss(output, LABELS, 0.5).double(), (1 - alpha) * own + alpha * soft, rtol=1e-5, atol=1e-6
    )


def teacher_of(method: Distill, net: Net) -> Net:
    return method.stages()[0].trained(net)


@pytest.mark.parametrize("spec", ["model_ensemble(members=2)", "model_ensemble(members=2, threshold=0.0)"])
def test_the_teacher_answers_as_in_evaluation_and_nobody_leaves_it(spec: str) -> None:
    method = Distill(teacher=spec)
    net, _ = begun(method, -1)
    teacher = teacher_of(method, net)
    teacher.train()  # as a stage of its own left it
    before = {name: value.clone() for name, value in teacher.state_dict().items()}
    said = net.train()(IMAGES).said[TEACHER]
    assert not said.requires_grad
    assert all(torch.equal(value, before[name]) for name, value in teacher.state_dict().items())
    plain = copy.deepcopy(teacher).eval()
    members = [voter.member for name, voter in plain.named_modules() if hasattr(voter, "member")]
    mean = sum(member(IMAGES).softmax(1) for member in members) / 2
    torch.testing.assert_close(said.softmax(1), mean, rtol=0, atol=1e-12)


@torch.no_grad()
def test_the_network_is_the_students_alone() -> None:
    net, alone = build("distill", "cifar_resnet14", **SMALL), build("static", "cifar_resnet14", **SMALL)
    assert net.costs == alone.costs
    assert list(net.state_dict()) == list(alone.state_dict())
    assert [name for name, _ in net.named_modules()] == [name for name, _ in alone.named_modules()]
    assert net.origins == alone.origins
    images = IMAGES.float()
    torch.testing.assert_close(net(images).logits, alone(images).logits)
    begin = create_method("distill").stages()[-1].prepare
    assert begin is not None
    begin(net, list)
    begin(net, list)  # a second stage of the student
    assert net.eval()(images).said.keys() == alone.eval()(images).said.keys()
    assert len(net._forward_hooks) == 1


def test_a_copy_has_a_teacher_of_its_own() -> None:
    method = Distill(teacher="static")
    net, _ = begun(method, -1)
    other = copy.deepcopy(net)
    first, second = teacher_of(method, net), teacher_of(method, other)
    assert first is not second
    said = net.train()(IMAGES).said[TEACHER]
    torch.testing.assert_close(other.train()(IMAGES).said[TEACHER], said)
    with torch.no_grad():
        next(second.parameters()).zero_()
    assert torch.equal(net(IMAGES).said[TEACHER], said)
    assert not torch.equal(other(IMAGES).said[TEACHER], said)


def test_the_teacher_follows_the_precision() -> None:
    method = Distill(teacher="static")
    net = build(method, "cifar_resnet8", **SMALL)
    assert next(teacher_of(method, net).parameters()).dtype == torch.float32
    assert next(teacher_of(method, net.double()).parameters()).dtype == torch.float64


@pytest.mark.parametrize("share", [0.5, 0.8])
def test_the_teacher_trains_first_then_the_student(share: float) -> None:
    method = Distill(teacher="snapshot_ensemble(cycles=2, members=2)", student="skipnet", teacher_share=share)
    stages = method.stages()
    assert [stage.name.partition(":")[0] for stage in stages] == ["teacher"] * 2 + ["student"] * 2
    assert sum(stage.share for stage in stages[:2]) == pytest.approx(share)
    assert sum(stage.share for stage in stages) == pytest.approx(1.0)
    net = build(method, "cifar_resnet8", **SMALL).double()
    assert [stage.trained(net) is net for stage in stages] == [False, False, True, True]
    assert stages[1].prepare is not None
    stages[1].prepare(net, list)  # the second snapshot goes on from the first, in the teacher
    values = teacher_of(method, net).state_dict()
    first = [name for name in values if ".voters.0." in name]
    assert first
    assert all(torch.equal(values[name], values[name.replace("voters.0", "voters.1")]) for name in first)


def test_the_students_own_loss_sees_what_it_would_see_alone() -> None:
    seen: list[set[str]] = []
    method = Distill(teacher="static", student="model_ensemble(members=2, cascade=True)")

    def own(output: Output, labels: Tensor, progress: float) -> Tensor:
        seen.append(set(output.said))
        return torch.zeros(())

    net, _ = begun(method, -1)
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
    net, stage = begun(method, -1)
    own = len(create_method(inner["student"]).stages())
    assert len(method.stages()) == own + len(create_method(inner["teacher"]).stages())
    with torch.no_grad():
        alone = net.eval()(IMAGES)  # in use nothing of the teacher's is there
    assert TEACHER not in alone.said
    assert stage.name.startswith("student: ")


@pytest.mark.parametrize("role", ["teacher", "student"])
def test_what_finds_no_place_says_so(role: str) -> None:
    with pytest.raises(CannotAttach, match=r"^skipnet: mobilenet_v1"):
        build(f'distill({role}="skipnet")', "mobilenet_v1(width=0.25)", **SMALL)


@torch.no_grad()
def test_the_operating_points_are_the_students() -> None:
    student = "model_ensemble(members=2, cascade=True)"
    method = Distill(teacher="static", student=student)
    net = build(method, "cifar_resnet8", **SMALL)
    output = net(IMAGES.float(), sparse=False)
    seen = Seen(LABELS, output.logits, output.said)
    assert method.points(net, seen) == create_method(student).points(net, seen) != ()
