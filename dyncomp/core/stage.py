"""Stage: one part of a method's training."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase

from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from dyncomp.core.net import Net, Output

Loss = Callable[[Output, Tensor, float], Tensor]
"""loss(output, labels (B,), progress): progress is how much of the stage is done, from 0 to 1."""

Batches = Callable[[], Iterable[tuple[Tensor, Tensor]]]
"""Called, goes once over the training split in order: images (B, C, H, W) on the network's device, labels (B,)."""


@dataclass(frozen=True)
class Stage:
    """One part of a method's training.

    `share` of the budget that is the method's own; `loss`; `learns`: patterns of the parameters' names that train (the
    others are held); `sampling`: gates draw their decisions instead of thresholding them; `learning_rate`: factor on
    the recipe's own; `adam`: Adam with this learning rate and no weight decay in place of the recipe's SGD;
    `hold_statistics`: patterns of the modules whose batch norms use their running statistics and leave them as they
    are.

    All stages of a method follow one curve of the learning rate, which rises once and falls once. A stage that
    `restarts` begins a curve of its own, without a rise, which the stages behind it follow too. `prepare(net, batches)`
    is called once at the beginning, `adjust(net, progress)` before every step. `epochs`: the fewest epochs in which the
    stage makes sense; a smaller budget is refused.
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
        """Whether the parameter of that name learns in this stage."""
        return any(fnmatchcase(parameter, pattern) for pattern in self.learns)

    def hold_batch_norms(self, net: Net) -> None:
        """Let those of a network in training whose statistics the stage holds use their running ones."""
        for name, layer in net.named_modules():
            if isinstance(layer, _BatchNorm) and self.holds(name):
                layer.eval()

    def holds(self, module: str) -> bool:
        """Whether a batch norm of that name keeps its statistics in this stage."""
        return any(fnmatchcase(module, pattern) for pattern in self.hold_statistics)
