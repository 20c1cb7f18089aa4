"""What other counters say of the same image: torch's own and fvcore's, and by which operators they differ from ours.

All count one real image on its own route, in the sparse form. torch's counter follows what runs, as ours does. fvcore
counts a trace; at a batch of one image a trace holds exactly the operators of this image's route, so the sparse form
can be traced, and that is what is deployed. Its limits stay: it prices normalisation and pooling, which our convention
calls free; what a trace uses for control flow alone, such as a gate that decides and weighs nothing, is cut out of it
and counts nothing; and operators without a handle of its own are in `unsupported`, with their number of calls.

MACs: torch counts two per multiply-add, fvcore one (and calls it a flop).
"""

from __future__ import annotations

import logging
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Final

from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from dyncomp.core import Net, execute_and_count
from dyncomp.core.graphs import one_route
from dyncomp.core.modes import evaluating
from dyncomp.errors import in_one_line
from dyncomp.fast import disabled
from dyncomp.store.schema import OpinionRecord, OpinionsRecord

TOLERANCE = 0.01
"""part of our count from which on a difference is explained"""
CONVOLUTIONS: Final = "convolutions"
PRODUCTS: Final = "matrix products"
_FAMILIES = {
    **dict.fromkeys(("convolution", "_convolution", "conv"), CONVOLUTIONS),
    **dict.fromkeys(("addmm", "mm", "bmm", "baddbmm", "matmul", "linear", "einsum"), PRODUCTS),
}
_ERROR_LENGTH = 200


def second_opinions(net: Net, image: Tensor) -> OpinionsRecord:
    """Our count and two others' for one image (1, C, H, W), ready for JSON.

    `torch` and `fvcore` each have `macs`, `flops`, `by_operator`, and `differences`: MACs by kind of operator, theirs
    less ours, where the totals differ by more than `TOLERANCE`. A counter that fails has an `error` instead.
    """
    with disabled():  # the others see torch's operators
        ours = execute_and_count(net, image)
    own = _told(ours.by_operator)

    def opinion(ask: Callable[[Net, Tensor], OpinionRecord]) -> OpinionRecord:
        try:
            found = ask(net, image)
            found["differences"] = differences(ours.by_operator, found["by_operator"])
            return found
        except Exception as error:  # whatever another's counter does must not cost the cell
            return {"error": f"could not count: {in_one_line(error, _ERROR_LENGTH)}"}

    return {
        "macs": own["macs"],
        "flops": own["flops"],
        "by_operator": own["by_operator"],
        "torch": opinion(by_torch),
        "fvcore": opinion(by_fvcore),
    }


def by_torch(net: Net, image: Tensor) -> OpinionRecord:
    """The count of `torch.utils.flop_counter`."""
    with evaluating(net), FlopCounterMode(display=False) as counter:
        net(image, sparse=True, record=False)
    flops = counter.get_flop_counts().get("Global", {})
    return _told({str(packet): count // 2 for packet, count in flops.items()})


def by_fvcore(net: Net, image: Tensor) -> OpinionRecord:
    """The count of `fvcore.nn.FlopCountAnalysis`, and what it left out."""
    with evaluating(net), _quiet(), one_route():  # this image's route is what is counted
        from fvcore.nn import FlopCountAnalysis

        analysis = FlopCountAnalysis(_Sparse(net), image)
        analysis.unsupported_ops_warnings(False).uncalled_modules_warnings(False).tracer_warnings("none")
        counted = {name: int(macs) for name, macs in analysis.by_operator().items()}
        told = _told(counted)
        told["unsupported"] = dict(analysis.unsupported_ops())
        return told


def differences(ours: Mapping[str, int], theirs: Mapping[str, int]) -> dict[str, int]:
    """MACs by kind of operator, theirs less ours, largest first; {} where the totals agree within `TOLERANCE`."""
    mine, other = (_by_family(counts) for counts in (ours, theirs))
    if abs(other.total() - mine.total()) <= TOLERANCE * mine.total():
        return {}
    found = {family: other[family] - mine[family] for family in mine | other}
    return {family: macs for family, macs in sorted(found.items(), key=lambda item: -abs(item[1])) if macs}


def _by_family(counts: Mapping[str, int]) -> Counter[str]:
    found: Counter[str] = Counter()
    for operator, macs in counts.items():
        name = operator.rpartition(".")[2]
        found[_FAMILIES.get(name, name)] += macs
    return found


def _told(by_operator: Mapping[str, int]) -> OpinionRecord:
    total = sum(by_operator.values())
    return {"macs": total, "flops": 2 * total, "by_operator": {name: n for name, n in by_operator.items() if n}}


class _Sparse(nn.Module):
    """The sparse form with tensors alone going in and out, as a trace needs it."""

    def __init__(self, net: Net) -> None:
        super().__init__()
        self.net = net

    def forward(self, images: Tensor) -> Tensor:
        """(B, C, H, W) -> logits (B, Y)."""
        logits: Tensor = self.net(images, sparse=True, record=False).logits
        return logits


@contextmanager
def _quiet() -> Iterator[None]:
    """Without what tracing and fvcore say on the way; what was not counted is in the record."""
    logger = logging.getLogger("fvcore")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
