"""The checks: each holds one promise for a case."""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from dyncomp.conformance.case import Case, NotConforming, equal
from dyncomp.conformance.deployment import deployment_changes_nothing
from dyncomp.conformance.training import stages_train_what_they_claim
from dyncomp.core import Op, count_executed_macs, measure_costs
from dyncomp.core.decisions import all_on
from dyncomp.fast import in_turn
from dyncomp.registry import METHODS
from dyncomp.spec import spec_of
from dyncomp.train import load_checkpoint, save_checkpoint


def dense_equals_sparse(case: Case) -> None:
    """Both forms give the same logits under the same decisions."""
    for way, seen in case.passes.items():
        equal(seen.dense.logits, seen.sparse.logits, f"dense and sparse logits differ under {way}")
        equal(seen.dense.macs(), seen.sparse.macs(), f"dense and sparse prices differ under {way}")


def batch_equals_images(case: Case) -> None:
    """A batch gives each image what it gets alone."""
    for way, seen in case.passes.items():
        together, macs = seen.sparse.logits, seen.sparse.macs()
        for i, alone in enumerate(seen.alone):
            equal(alone.logits, together[i : i + 1], f"image {i} alone differs from image {i} of the batch under {way}")
            equal(alone.macs(), macs[i : i + 1], f"the price of image {i} alone differs under {way}")


def price_equals_executed(case: Case) -> None:
    """Priced MACs are those of the operators that ran, as integers, per batch and per image."""
    for way, seen in case.passes.items():
        if seen.ran.uncounted:
            raise NotConforming(f"operators without a known cost ran: {', '.join(sorted(seen.ran.uncounted))}")
        priced = [int(macs) for macs in seen.sparse.macs()]
        if sum(priced) != seen.ran.macs:
            raise NotConforming(f"priced {sum(priced)} MACs, executed {seen.ran.macs}, under {way}")
        for i, ran in enumerate(seen.ran_alone):
            if priced[i] != ran.macs:
                raise NotConforming(f"image {i}: priced {priced[i]} MACs, executed {ran.macs}, under {way}")


def answers_depend_on_images_and_decisions(case: Case) -> None:
    """Answers depend on the image and on the decisions; otherwise the other checks are empty."""
    own = case.passes["its own decisions"].sparse.logits
    if len(torch.unique(own, dim=0)) < len(own) or not bool(own.isfinite().all()):
        raise NotConforming("different images get the same logits, or logits that are no numbers")
    for way, seen in case.passes.items():
        if way == "random decisions" and float((seen.sparse.logits - own).abs().max()) < 1e-6 * float(own.abs().max()):
            raise NotConforming("random decisions change no logit: the network does not do as it is told")


def sites_have_names_and_shapes(case: Case) -> None:
    """The trace has a decision, 0 or 1 for each image and unit, for every op, under its dotted name."""
    ops = {name: module for name, module in case.net.model.named_modules() if isinstance(module, Op)}
    trace = case.passes["its own decisions"].sparse.trace
    if list(trace) != list(ops):
        raise NotConforming(f"the trace names the sites {list(trace)}, the ops are {list(ops)}")
    for site, decision in trace.items():
        wanted = (case.count, ops[site].units)
        if any(tuple(t.shape) != wanted for t in (decision.used, decision.weight, decision.probability)):
            raise NotConforming(f"{site}: decisions of shape {tuple(decision.used.shape)}, not {wanted} throughout")
        if not bool(((decision.used == 0) | (decision.used == 1)).all()):
            raise NotConforming(f"{site}: used is neither 0 nor 1 in evaluation")


@torch.no_grad()
def all_on_equals_plain(case: Case) -> None:
    """With everything on, a method that claims so is its plain backbone, in training too."""
    if not case.method.all_on_is_plain:
        return
    net, plain, images = case.fresh(), case.build("static"), case.images()
    for training in (True, False):
        torch.manual_seed(0)  # the same dropout
        ours = net.train(training)(images, sparse=False, decisions=all_on(net, case.count)).logits
        torch.manual_seed(0)
        equal(ours, plain.train(training)(images).logits, f"all on is not the plain backbone, training={training}")
    gated, alone = measure_costs(net, images[:1]).without_overhead, measure_costs(plain, images[:1]).full
    if gated != alone:
        raise NotConforming(f"all on costs {gated} MACs without gates, plain {alone}")


@torch.no_grad()
def evaluation_is_deterministic(case: Case) -> None:
    """In evaluation neither chance, nor an earlier batch, nor keeping no trace changes an answer."""
    images, first = case.images(), case.passes["its own decisions"].sparse
    with in_turn():
        torch.manual_seed(99)
        case.net(case.images(seed=5))
        second = case.net(images)
        if not torch.equal(images, case.images()):
            raise NotConforming("the images were changed in place")
        silent = case.net(images, record=False)
    equal(second.logits, first.logits, "two evaluations of the same images differ")
    equal(second.macs(), first.macs(), "two evaluations of the same images are priced differently")
    equal(silent.logits, first.logits, "logits differ when no trace is recorded")


@torch.no_grad()
def survives_save_copy_and_layout(case: Case) -> None:
    """Spec, checkpoint and deep copy round trips, and channels-last images, change nothing."""
    text = spec_of(case.method)
    if METHODS.create(text) != case.method:
        raise NotConforming(f"spec {text} does not give the method back")
    images, wanted = case.images(), case.passes["its own decisions"].sparse.logits
    with in_turn():
        equal(_saved_and_loaded(case, images), wanted, "a saved and loaded network answers otherwise")
        equal(copy.deepcopy(case.net)(images).logits, wanted, "a deep copy answers otherwise")
        lasting = images.contiguous(memory_format=torch.channels_last)
        equal(case.net(lasting).logits, wanted, "channels-last images are answered otherwise")


def _saved_and_loaded(case: Case, images: Tensor) -> Tensor:
    other = case.fresh()
    for parameter in other.parameters():
        parameter.zero_()  # what is not in the file is missed
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "net.safetensors"
        save_checkpoint(case.net, path, {})
        load_checkpoint(other, path)
    logits: Tensor = other.eval()(images).logits
    return logits


@torch.no_grad()
def costs_add_up(case: Case) -> None:
    """Costs are those of the network with everything on, and the same when measured again."""
    image = case.images()[:1]
    costs = measure_costs(case.net, image)
    if not costs == measure_costs(case.net, image) == case.net.costs:
        raise NotConforming("two measurements of the costs differ")
    ran = count_executed_macs(case.net, image, all_on(case.net, 1))
    if costs.full != ran:
        raise NotConforming(f"costs add up to {costs.full} MACs, with everything on {ran} ran")


Check = Callable[[Case], None]
CHECKS: dict[str, Check] = {
    check.__name__: check
    for check in (
        answers_depend_on_images_and_decisions,
        dense_equals_sparse,
        batch_equals_images,
        price_equals_executed,
        sites_have_names_and_shapes,
        all_on_equals_plain,
        stages_train_what_they_claim,
        evaluation_is_deterministic,
        survives_save_copy_and_layout,
        deployment_changes_nothing,
        costs_add_up,
    )
}


def failures(case: Case) -> dict[str, str]:
    """Every check that the case does not pass, with what it says; empty for a method that conforms."""
    found = {}
    for name, check in CHECKS.items():
        try:
            check(case)
        except NotConforming as error:
            found[name] = str(error)
    return found
