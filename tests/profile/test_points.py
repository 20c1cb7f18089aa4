"""Operating points, measured in the sparse form, against the dense answers and the scores, image by image."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from dyncomp import build
from dyncomp.core import Net, Point
from dyncomp.ops import Exit
from dyncomp.ops.calibrate import exit_points
from dyncomp.profile import evaluate
from dyncomp.profile.points import measure_points, observe
from tests.handmade import bright_or_dark, gated_net, stripes

SPLIT = stripes(count=60).test


@pytest.fixture(autouse=True)
def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several batches, the last one smaller."""
    monkeypatch.setattr("dyncomp.profile.evaluation.BATCH_SIZE", 7)


def exiting(spec: str = "early_exit(after=(1, 2))") -> Net:
    """Random weights, in float64, so that no score lies on a threshold by rounding; labels are what it may answer."""
    return build(spec, "cifar_resnet8", classes=2, in_channels=1, image_size=8).double()


class Doubled:
    """A split whose images are float64."""

    def __init__(self) -> None:
        self.labels = SPLIT.labels

    def __len__(self) -> int:
        return len(self.labels)

    def batches(self, batch_size: int) -> list[object]:
        return [batch._replace(images=batch.images.double()) for batch in SPLIT.batches(batch_size)]


@pytest.mark.parametrize("spec", ["early_exit(after=(1, 2))", 'early_exit(after=(2,), criterion="entropy")'])
def test_every_point_is_what_dense_answers_and_scores_say(spec: str) -> None:
    net, split = exiting(spec), Doubled()
    seen = observe(net, split)  # type: ignore[arg-type]
    sites = list(net.sites)
    answers = np.stack([*(seen.said[s].argmax(1).numpy() for s in sites), seen.logits.argmax(1).numpy()])
    scores = np.stack([seen.said[f"{s}.score"].numpy() for s in sites])
    assert net.costs is not None
    paid = [net.costs.always + net.costs.sites[sites[0]].overhead]
    for number, site in enumerate(sites):
        following = net.costs.sites[sites[number + 1]].overhead if number + 1 < len(sites) else 0
        paid.append(paid[-1] + net.costs.of_units(site) + following)
    points = exit_points(net, seen, tolerance=1.0)
    for row, point in zip(measure_points(net, split, points), points, strict=True):  # type: ignore[arg-type]
        open_ = scores > np.array([[point.thresholds[s]] for s in sites])
        where = np.where(open_.any(0), open_.argmax(0), len(sites))
        given = answers[where, np.arange(len(where))]
        assert row["top1"] == 100 * (given == SPLIT.labels.numpy()).sum() / len(where)
        assert row["macs"] == pytest.approx(np.array(paid)[where].mean(), rel=1e-12)
        assert row["leaves"] == pytest.approx([(where == k).mean() for k in range(len(sites) + 1)])
        assert (row["name"], row["kind"], row["thresholds"]) == (point.name, point.kind, point.thresholds)


def test_the_network_is_left_at_the_first_point_and_rows_are_json() -> None:
    net = exiting().float()
    points = [Point(str(limit), "fixed", dict.fromkeys(net.sites, limit)) for limit in (0.6, 0.0, 1.0)]
    rows = measure_points(net, SPLIT, points)
    assert json.loads(json.dumps(rows)) == rows
    assert [float(op.threshold) for op in net.sites.values() if isinstance(op, Exit)] == pytest.approx([0.6] * 2)
    assert evaluate(net, SPLIT).top1 == rows[0]["top1"]
    assert [row["leaves"] for row in rows[1:]] == [[1.0, 0.0, 0.0], [0.0, 0.0, 1.0]]


def test_it_is_left_at_the_first_point_also_after_an_error() -> None:
    net = exiting().float()
    points = [Point("a", "fixed", dict.fromkeys(net.sites, 0.25)), Point("b", "fixed", {"nowhere": 0.5})]
    with pytest.raises(KeyError, match="nowhere"):
        measure_points(net, SPLIT, points)
    assert [float(op.threshold) for op in net.sites.values() if isinstance(op, Exit)] == [0.25] * 2


@torch.no_grad()
def test_what_is_seen_is_the_dense_form_with_everything_on() -> None:
    net = exiting().float()
    for op in net.sites.values():
        assert isinstance(op, Exit)
        op.threshold.fill_(-1.0)  # in use, everybody would leave at once
    seen = observe(net, SPLIT)
    plain = build("static", "cifar_resnet8", classes=2, in_channels=1, image_size=8)
    images = torch.cat([batch.images for batch in SPLIT.batches(7)])
    torch.testing.assert_close(seen.logits, plain(images).logits)
    assert torch.equal(seen.labels, SPLIT.labels)
    assert set(seen.said) == {key for site in net.sites for key in (site, f"{site}.score")}
    assert all(len(value) == len(SPLIT) for value in seen.said.values())


def test_a_network_without_exits_has_no_shares() -> None:
    (row,) = measure_points(gated_net(), bright_or_dark([True, False, True]), [Point("only", "fixed", {})])
    assert (row["leaves"], row["top1"]) == ([], 100.0)
