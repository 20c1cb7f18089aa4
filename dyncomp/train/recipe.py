"""How every network of a comparison is trained: one recipe, whatever the method."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from torch import nn
from torch.optim import SGD, Adam, Optimizer
from torch.optim.lr_scheduler import LambdaLR

from dyncomp.core import Stage


@dataclass(frozen=True)
class Recipe:
    """SGD with Nesterov momentum; each stage's learning rate rises from 0 and falls to 0 along a cosine.

    `epochs` is the whole budget, all stages together. `learning_rate` is for `batch_size` images. Weight decay acts on
    kernels and matrices, not on biases and normalisation.
    """

    epochs: float
    batch_size: int = 128
    learning_rate: float = 0.05
    momentum: float = 0.9
    weight_decay: float = 5e-4
    warmup: float = 0.1
    clip: float = 5.0

    def optimizer(self, parameters: Mapping[str, nn.Parameter], stage: Stage) -> Optimizer:
        """The optimizer of a stage; `parameters` by name.

        The experts' biases are matrices (K, O), and yet biases.
        """
        if stage.adam is not None:
            return Adam(parameters.values(), lr=stage.adam)
        matrices = [p for name, p in parameters.items() if p.dim() > 1 and not name.endswith("bias")]
        vectors = [p for name, p in parameters.items() if p.dim() <= 1 or name.endswith("bias")]
        groups = [
            {"params": matrices, "weight_decay": self.weight_decay},
            {"params": vectors, "weight_decay": 0.0},
        ]
        rate = self.learning_rate * stage.learning_rate
        return SGD([g for g in groups if g["params"]], lr=rate, momentum=self.momentum, nesterov=True)

    def schedule(self, optimizer: Optimizer, steps: int, warmup: bool) -> LambdaLR:
        """The learning rate over a stage of that many steps."""
        rise = max(1, round(self.warmup * steps)) if warmup else 0

        def factor(step: int) -> float:
            if step < rise:
                return (step + 1) / (rise + 1)
            return 0.5 * (1 + math.cos(math.pi * (step - rise) / max(1, steps - rise)))

        return LambdaLR(optimizer, factor)
