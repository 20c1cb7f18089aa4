"""Stages of a method's training."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase

from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from dyncomp.core.net import Net, Output

Loss = Callable[[Output, Tensor, float], Tensor]
"""loss(output, labels (B,), progress): progress is the completed fraction of the stage, from 0 to 1."""

Batches = Callable[[], Iterable[tuple[Tensor, Tensor]]]
"""A call iterates once over the training split in order: images (B, C, H, W) on the network's device, labels (B,)."""


@dataclass(frozen=True)
class Stage:
    """One stage of a method's training.

    `share`: fraction of the method's own budget; `learns`: name patterns of the parameters that are trained, the others
    are frozen; `sampling`: gates draw their decisions instead of thresholding; `learning_rate`: factor on the recipe's
    learning rate; `adam`: the learning rate of Adam, without weight decay, in place of the recipe's SGD;
    `hold_statistics`: name patterns of the batch norms that use their running statistics and do not update them.

    All stages of a method follow one learning-rate schedule, with one warm-up and one decay. A stage that `restarts`
    begins a new schedule, without warm-up, which later stages continue. `prepare(net, batches)` is called once at the
    beginning of the stage, `adjust(net, progress)` before every step. `epochs`: the fewest epochs that the stage needs;
    a smaller budget is refused.
    """

    name: str
    share: float
    loss: Loss
    learns: tuple[str, ...] = ("*",)
    sampling: bool = False
    learning_rate: float = 1.0
    adam: float | None = None
    restarts: bool = False
    hold_statistics: tuple[str, ...] = ()
    prepare: Callable[[Net, Batches], None] | None = None
    adjust: Callable[[Net, float], None] | None = None
    epochs: float = 0.0

    def trains(self, parameter: str) -> bool:
        """Whether this stage trains the parameter of that name."""
        return any(fnmatchcase(parameter, pattern) for pattern in self.learns)

    def hold_batch_norms(self, net: Net) -> None:
        """Set batch norms of a network in training mode to running statistics, where `hold_statistics` matches."""
        for name, layer in net.named_modules():
            if isinstance(layer, _BatchNorm) and self.holds(name):
                layer.eval()

    def holds(self, module: str) -> bool:
        """Whether this stage holds the statistics of a batch norm of that name."""
        return any(fnmatchcase(module, pattern) for pattern in self.hold_statistics)
