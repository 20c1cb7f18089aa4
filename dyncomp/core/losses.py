"""Losses that several methods share."""

from __future__ import annotations

import math

import torch.nn.functional as F
from torch import Tensor

from dyncomp.core.net import Output


def cross_entropy(output: Output, labels: Tensor, progress: float = 0.0) -> Tensor:
    """Cross-entropy of the logits (B, Y) in float32, mean over the batch; usable as the loss of a stage."""
    return F.cross_entropy(output.logits.float(), labels)


def divergence(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """T^2 * KL(teacher || student) of logits (B, Y) divided by the temperature T, mean over images.

    The factor T^2 makes the scale of the gradient independent of T (Hinton et al. 2015, arXiv:1503.02531, section 2).
    """
    ours = (student.float() / temperature).log_softmax(dim=1)
    theirs = (teacher.float() / temperature).log_softmax(dim=1)
    return temperature**2 * F.kl_div(ours, theirs, reduction="batchmean", log_target=True)


def outside_of_bounds(shares: Tensor, target: float, progress: float) -> Tensor:
    """Squared distance of the shares (T,) of T blocks from an interval around `target`, mean over blocks.

    The interval begins as the target alone, and widens to 0 and 1 along a squared cosine over the first third of the
    training (Verelst & Tuytelaars 2020, arXiv:1912.03203, section 3.3).
    """
    tight = math.cos(min(1.0, progress * 3) * math.pi / 2) ** 2
    low, high = target * tight, 1 - (1 - target) * tight
    return ((low - shares).relu().square() + (shares - high).relu().square()).mean()


def off_budget(output: Output, target: float, pressure: float) -> Tensor:
    """Squared distance of the batch's mean share of MACs from a target that moves linearly from 1 to `target`.

    `pressure`: progress of the move, from 0 to 1.
    """
    moved = 1 - (1 - target) * pressure
    return (output.share().mean() - moved).square().float()
