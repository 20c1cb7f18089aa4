"""A trained network that teaches another: what it says, how it answers, and whose it is."""

from __future__ import annotations

import copy

import pytest
import torch

from dyncomp import build
from dyncomp.core import Net
from dyncomp.core.teaching import TEACHER, teach

IMAGES = torch.randn(6, 3, 8, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def network(seed: int = 0, method: str = "static") -> Net:
    return build(method, "cifar_resnet8", classes=5, image_size=8, seed=seed).double()


@torch.no_grad()
def answer(net: Net) -> torch.Tensor:
    return net.eval()(IMAGES).logits


@pytest.mark.parametrize("name", [TEACHER, "another"])
def test_it_says_what_it_answers_to_the_same_images(name: str) -> None:
    student, teacher = network(), network(1)
    teach(student, teacher, name)
    output = student.train()(IMAGES)
    torch.testing.assert_close(output.said[name], answer(teacher))
    assert not output.said[name].requires_grad
    assert output.logits.requires_grad


@pytest.mark.parametrize("method", ["static", "skipnet", "convnet_aig"])
def test_it_is_frozen_and_answers_as_in_use(method: str) -> None:
    student, teacher = network(), network(1, method).train()
    teach(student, teacher)
    assert not teacher.training
    assert not any(parameter.requires_grad for parameter in teacher.parameters())
    before = {key: value.clone() for key, value in teacher.state_dict().items()}
    first, second = (student.train()(IMAGES).said[TEACHER] for _ in range(2))
    assert torch.equal(first, second)
    student(IMAGES).logits.sum().backward()
    assert all(torch.equal(value, before[key]) for key, value in teacher.state_dict().items())
    assert all(parameter.grad is None for parameter in teacher.parameters())
    torch.testing.assert_close(first, answer(teacher))


def test_outside_of_training_it_says_nothing() -> None:
    student = network()
    teach(student, network(1))
    assert TEACHER not in student.eval()(IMAGES).said
    student.train()
    with torch.no_grad():
        assert TEACHER not in student(IMAGES).said
    assert TEACHER in student(IMAGES).said


def test_a_later_teacher_takes_the_place_of_an_earlier_one_of_that_name() -> None:
    student, first, second, third = (network(seed) for seed in range(4))
    teach(student, first)
    teach(student, second, "another")
    teach(student, third)
    said = student.train()(IMAGES).said
    torch.testing.assert_close(said[TEACHER], answer(third))
    torch.testing.assert_close(said["another"], answer(second))
    assert len(student._forward_hooks) == 2


def test_a_copy_has_a_teacher_of_its_own() -> None:
    student, teacher = network(), network(1)
    teach(student, teacher)
    other = copy.deepcopy(student)
    wanted = answer(teacher)
    with torch.no_grad():
        for parameter in teacher.parameters():
            parameter.zero_()
    torch.testing.assert_close(other.train()(IMAGES).said[TEACHER], wanted)
    assert not torch.equal(student.train()(IMAGES).said[TEACHER], wanted)


def test_it_is_no_part_of_the_student() -> None:
    student, alone = network(), network()
    teach(student, network(1, "model_ensemble(members=2)"))
    assert list(student.state_dict()) == list(alone.state_dict())
    assert [name for name, _ in student.named_modules()] == [name for name, _ in alone.named_modules()]
    assert student.costs == alone.costs


def test_it_follows_the_students_precision() -> None:
    student, teacher = network(), network(1)
    teach(student, teacher)
    assert student.train()(IMAGES).said[TEACHER].dtype == torch.float64
    assert student.float().train()(IMAGES.float()).said[TEACHER].dtype == torch.float32
