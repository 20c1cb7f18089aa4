"""The training loop: the same images for everybody, the stages' shares, what learns, what is told."""

from __future__ import annotations

import dataclasses
import itertools
import random
import re
from collections.abc import Iterator

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dyncomp import build, create_method
from dyncomp.core import Batches, Net, Output, Stage
from dyncomp.data import Batch, Split
from dyncomp.train import Diverged, Progress, Recipe, train
from dyncomp.train import clock as clock_module
from tests.handmade import stripes

SPLITS = stripes()
RECIPE = Recipe(epochs=2, batch_size=32)  # 3 steps an epoch
METHODS = ["static", "skipnet", 'condconv(mode="kernels")', 'skipnet(gate="ff2", target=None)']


def network(method: str = "static", seed: int = 0) -> Net:
    return build(method, "cifar_resnet8", classes=2, in_channels=1, image_size=8, seed=seed)


def cross_entropy(output: Output, labels: Tensor, progress: float) -> Tensor:
    return F.cross_entropy(output.logits.float(), labels)


def stage(name: str = "only", share: float = 1.0, **more: object) -> Stage:
    return Stage(name, share, **{"loss": cross_entropy, **more})  # type: ignore[arg-type]


class Recording(Split):
    """A split that notes which images were taken for training, in order."""

    def __init__(self, split: Split, strength: float = 1.0) -> None:
        self.split, self.labels, self.strength = split, split.labels, strength
        self.seen: list[list[int]] = []

    def batches(
        self, batch_size: int, *, epoch: int | None = None, seed: int = 0, augment: float = 0.0
    ) -> Iterator[Batch]:
        for batch in self.split.batches(batch_size, epoch=epoch, seed=seed, augment=augment):
            if epoch is not None:
                assert augment == self.strength
                self.seen.append(batch.index.tolist())
            yield batch


def images_of(method: str, seed: int, network_seed: int = 0) -> list[list[int]]:
    split = Recording(SPLITS.train)
    train(network(method, network_seed), split, create_method(method).stages(), RECIPE, seed)
    return split.seen


def test_every_method_sees_the_same_images_in_the_same_order() -> None:
    orders = [images_of(method, seed=3, network_seed=number) for number, method in enumerate(METHODS)]
    assert orders == [orders[0]] * len(METHODS)
    assert len(orders[0]) == 6
    assert sorted(itertools.chain(*orders[0][:3])) == list(range(96))
    assert orders[0][:3] != orders[0][3:]


def test_seed_changes_the_order() -> None:
    assert images_of("static", seed=3) != images_of("static", seed=4)


@pytest.mark.parametrize(
    ("shares", "epochs", "steps"),
    [
        ((1.0,), 2, [6]),
        ((0.5, 0.5), 2, [3, 3]),
        ((0.85, 0.15), 2, [5, 1]),
        ((0.25, 0.25, 0.5), 4, [3, 3, 6]),
        ((1 / 3, 1 / 3, 1 / 3), 4, [4, 4, 4]),
        ((0.99, 0.01), 2, [5, 1]),
        ((0.01, 0.99), 2, [1, 5]),
        ((0.9, 0.05, 0.05), 1, [1, 1, 1]),
        ((0.98, 0.01, 0.01), 2, [4, 1, 1]),
    ],
)
def test_shares_become_steps_that_add_up(shares: tuple[float, ...], epochs: float, steps: list[int]) -> None:
    taken = [0] * len(shares)

    def counting(number: int) -> Stage:
        def loss(output: Output, labels: Tensor, progress: float) -> Tensor:
            assert progress == pytest.approx(taken[number] / steps[number])
            taken[number] += 1
            return cross_entropy(output, labels, progress)

        return stage(f"stage {number}", shares[number], loss=loss)

    recipe = dataclasses.replace(RECIPE, epochs=epochs)
    logs = train(network(), SPLITS.train, [counting(number) for number in range(len(shares))], recipe, 0)
    assert taken == steps
    assert [log.name for log in logs] == [f"stage {number}" for number in range(len(shares))]
    assert [log.epochs for log in logs] == pytest.approx([count / 3 for count in steps])
    assert all(log.log and log.seconds > 0 for log in logs)


def test_a_split_smaller_than_a_batch_trains() -> None:
    split = Recording(SPLITS.train)
    train(network(), split, [stage()], Recipe(epochs=2, batch_size=1000), 0)
    assert [len(batch) for batch in split.seen] == [96, 96]


def test_only_claimed_parameters_move() -> None:
    net = network("skipnet")
    before = {name: p.detach().clone() for name, p in net.named_parameters()}
    train(net, SPLITS.train, [stage(learns=("*.gate.*",), sampling=True, loss=through_the_gates)], RECIPE, 0)
    moved = {name for name, p in net.named_parameters() if not torch.equal(p, before[name])}
    claimed = {name for name in before if ".gate." in name}
    assert claimed
    assert claimed < set(before)
    assert moved == claimed
    assert all(p.requires_grad for p in net.parameters())


def through_the_gates(output: Output, labels: Tensor, progress: float) -> Tensor:
    return torch.cat([d.probability for d in output.trace.values()], 1).sum()


@pytest.mark.parametrize("hold", [True, False])
def test_held_statistics_stay(hold: bool) -> None:
    net = network()
    before = {name: b.clone() for name, b in net.named_buffers()}
    train(net, SPLITS.train, [stage(hold_statistics=("*",) if hold else ())], RECIPE, 0)
    same = [torch.equal(b, before[name]) for name, b in net.named_buffers()]
    assert before
    assert all(same) if hold else not any(same)


def test_statistics_move_again_after_a_stage_that_held_them() -> None:
    net = network()
    seen: list[tuple[str, bool]] = []

    def noting(name: str) -> Stage:
        def loss(output: Output, labels: Tensor, progress: float) -> Tensor:
            seen.append((name, any(m.training for m in net.modules() if isinstance(m, nn.BatchNorm2d))))
            return cross_entropy(output, labels, progress)

        return stage(name, 0.5, loss=loss, hold_statistics=("*",) if name == "held" else ())

    train(net, SPLITS.train, [noting("held"), noting("free")], RECIPE, 0)
    assert set(seen) == {("held", False), ("free", True)}


def test_gates_draw_only_in_the_stage_that_asks() -> None:
    net = network("skipnet")
    drew: dict[str, set[bool]] = {"threshold": set(), "draw": set(), "after": set()}

    def noting(name: str, share: float) -> Stage:
        def loss(output: Output, labels: Tensor, progress: float) -> Tensor:
            drew[name].add(net.sampling)
            return cross_entropy(output, labels, progress)

        return stage(name, share, loss=loss, sampling=name == "draw")

    train(net, SPLITS.train, [noting("threshold", 0.3), noting("draw", 0.4), noting("after", 0.3)], RECIPE, 0)
    assert drew == {"threshold": {False}, "draw": {True}, "after": {False}}
    assert net.sampling is False
    assert not net.training


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_loss_that_is_no_number_diverges_in_one_line(bad: float) -> None:
    net = network()

    def loss(output: Output, labels: Tensor, progress: float) -> Tensor:
        return output.logits.float().sum() * (bad if progress > 0.4 else 1.0)

    with pytest.raises(Diverged) as caught:
        train(net, SPLITS.train, [stage("hot", loss=loss, sampling=True)], RECIPE, 0)
    assert re.match(r"the loss is (nan|inf) in stage hot, epoch 2 of 2; ", str(caught.value))
    assert "\n" not in str(caught.value)
    assert net.sampling is False
    assert not net.training


@pytest.mark.parametrize("every_s", [0.0, 1e9])
def test_progress_rises_to_the_end(every_s: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clock_module, "TELL_EVERY_S", every_s)
    told: list[Progress] = []
    train(network(), SPLITS.train, [stage("a", 0.5), stage("b", 0.5)], RECIPE, 0, told.append)
    assert len(told) == (6 if every_s == 0 else 2)  # every step, or the ends of epochs, here those of the stages
    assert [p.done for p in told] == sorted({p.done for p in told})
    assert told[-1].done == 1.0
    assert [p.seconds for p in told] == sorted(p.seconds for p in told)
    assert {p.epochs for p in told} == {2}
    assert [p.epoch for p in told] == ([1, 1, 1, 2, 2, 2] if every_s == 0 else [1, 2])
    assert [p.stage for p in told] == (["a"] * 3 + ["b"] * 3 if every_s == 0 else ["a", "b"])


def test_log_holds_the_means_of_each_epoch() -> None:
    losses: list[float] = []

    def loss(output: Output, labels: Tensor, progress: float) -> Tensor:
        value = cross_entropy(output, labels, progress)
        losses.append(float(value.detach()))
        return value

    (log,) = train(network(), SPLITS.train, [stage(loss=loss)], RECIPE, 0)
    assert [row[0] for row in log.log] == [1, 2]
    assert [row[1] for row in log.log] == pytest.approx([np.mean(losses[:3]), np.mean(losses[3:])], rel=1e-6)
    assert [row[2] for row in log.log] == [1.0, 1.0]  # the plain network costs what it costs


@pytest.mark.parametrize("method", METHODS)
def test_same_seed_same_weights_whatever_the_caller_drew(method: str) -> None:
    trained = []
    for noise in (1, 2):
        torch.manual_seed(noise)
        net = network(method)
        train(net, SPLITS.train, create_method(method).stages(), RECIPE, 5)
        trained.append(net.state_dict())
    assert all(torch.equal(trained[0][name], trained[1][name]) for name in trained[0])


def test_the_callers_random_state_stays() -> None:
    torch.manual_seed(11)
    random.seed(11)
    np.random.seed(11)
    states = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()
    train(network("skipnet"), SPLITS.train, create_method("skipnet").stages(), RECIPE, 0)
    assert torch.equal(torch.get_rng_state(), states[0])
    assert random.getstate() == states[1]
    assert np.random.get_state()[1].tolist() == states[2]


def test_it_learns() -> None:
    net = network()
    (log,) = train(net, SPLITS.train, [stage()], Recipe(epochs=12, batch_size=32), 0)
    assert log.log[-1][1] < 0.5 * log.log[0][1]
    with torch.no_grad():
        images, labels, _ = next(iter(SPLITS.test.batches(96)))
        assert float((net(images).logits.argmax(1) == labels).float().mean()) > 0.9


def test_hooks_are_called_with_the_network_and_the_progress() -> None:
    net, told = network(), list[float]()

    def prepare(given: Net, batches: Batches) -> None:
        assert given is net
        counted = sum(len(labels) for _, labels in batches())
        assert counted == len(SPLITS.train)
        told.append(-1.0)

    def adjust(given: Net, progress: float) -> None:
        assert given is net
        told.append(progress)

    train(net, SPLITS.train, [stage(prepare=prepare, adjust=adjust)], RECIPE, 0)
    assert told == [-1.0, *[step / 6 for step in range(6)]]


@pytest.mark.parametrize("strength", [0.0, 0.4, 1.0])
def test_images_are_augmented_as_the_recipe_says(strength: float) -> None:
    split = Recording(SPLITS.train, strength)
    train(network(), split, [stage()], dataclasses.replace(RECIPE, augment=strength), 0)
    assert len(split.seen) == 6


def closing(output: Output, labels: Tensor, progress: float) -> Tensor:
    return cross_entropy(output, labels, progress) + 20 * output.share().mean().float()


def test_a_collapse_is_told_and_kept() -> None:
    told: list[Progress] = []
    logs = train(network("skipnet"), SPLITS.train, [stage(loss=closing)], RECIPE, 0, told.append)
    (warning,) = logs[0].warnings
    assert "the gates never varied" in warning or "the gates have collapsed" in warning
    assert [progress.warning for progress in told if progress.warning] == [warning]
    assert logs[0].routes[-1] == (2, 1)
