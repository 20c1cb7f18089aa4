"""What a network answers on a split, what each image cost, and what really ran."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from dyncomp.core import Executed, Net, Trace, execute_and_count, price
from dyncomp.data import Split
from dyncomp.profile.sanity import answering, check_logits

BATCH_SIZE = 256
PRICED_AT_ONCE = 16
"""batches; more would hold much memory for networks that decide about pixels"""


@dataclass(frozen=True)
class Evaluation:
    """A split seen once in the sparse form; all tensors on the CPU, in the split's order.

    labels, predictions: (N,) int64; macs: (N,) int64, priced by the decisions; trace: of all images, `Trace.lean`.
    """

    labels: Tensor
    predictions: Tensor
    macs: Tensor
    trace: Trace

    @property
    def top1(self) -> float:
        """Percent of the images answered rightly."""
        return 100 * int((self.labels == self.predictions).sum()) / len(self.labels)


def evaluate(net: Net, split: Split) -> Evaluation:
    """Run the sparse form over a split, in order. Raises BadAnswer, with the images' numbers, where it fails."""
    labels, predictions, traces = [], [], []
    with torch.inference_mode():
        for images, batch_labels, index in in_batches(net, split):
            where = f"images {int(index[0])} to {int(index[-1])}"
            with answering(where):
                output = net(images, sparse=True)
            check_logits(output.logits, len(images), None, where)
            labels.append(batch_labels)
            predictions.append(output.logits.argmax(1))
            traces.append(output.trace.lean())
        assert net.costs is not None  # `build` measures them
        starts = range(0, len(traces), PRICED_AT_ONCE)  # many batches at once, as calls are what pricing costs
        joined = [Trace.join(traces[start : start + PRICED_AT_ONCE]) for start in starts]
        macs = torch.cat([price(net.costs, trace).round().long() for trace in joined]).cpu()
        trace = Trace.join([trace.to("cpu") for trace in joined])
    return Evaluation(torch.cat(labels), torch.cat(predictions).cpu(), macs, trace)


def count_executed(net: Net, split: Split, trace: Trace | None = None) -> Executed:
    """What ran over a whole split in the sparse form, by the network's own decisions or, for each image, by a trace's.

    With a trace, a network and its deployed copy run the same units even where rounding tips a gate.
    """
    if trace is None:
        return sum((execute_and_count(net, images) for images, _, _ in in_batches(net, split)), Executed())
    gates = [site for site, op in net.sites.items() if not bool(op.always().all())]  # others leave nothing to force
    batches = _with_trace(net, split, trace)
    forced = ((images, {site: part[site] for site in gates}) for images, _, part in batches)
    return sum((execute_and_count(net, *given) for given in forced), Executed())


def accuracy_with_exchanged_routes(net: Net, split: Split, trace: Trace, seed: int) -> float:
    """Percent of right answers when every image is sent down another image's route.

    The routes as a set, and so their price, stay the same; what goes is that an image has its own. No loss means that
    the gates might as well not look at the image.
    """
    order, right = torch.randperm(trace.images, generator=torch.Generator().manual_seed(seed)), 0
    with torch.inference_mode():
        for images, labels, part in _with_trace(net, split, trace.select(order)):
            output = net(images, sparse=True, decisions=part, record=False)
            right += int((output.logits.argmax(1).cpu() == labels).sum())
    return 100 * right / trace.images


def _with_trace(net: Net, split: Split, trace: Trace) -> Iterator[tuple[Tensor, Tensor, Trace]]:
    """Images and labels of a split's batches, as `in_batches` gives them, and their part of a trace of the split."""
    start = 0
    for images, labels, _ in in_batches(net, split):
        yield images, labels, trace.select(torch.arange(start, start + len(images)))
        start += len(images)


def in_batches(net: Net, split: Split, batch_size: int | None = None) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Images on the network's device, labels and numbers of a split's batches, in order."""
    device = next(net.parameters()).device
    for images, labels, index in split.batches(batch_size or BATCH_SIZE):
        yield images.to(device, memory_format=torch.channels_last), labels, index
