"""A gate on pooled features that is trained with Gumbel noise."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from dyncomp.core.inplace import in_place
from dyncomp.core.net import Net, Output
from dyncomp.ops.gates import Concrete, Gate, GateDescription, as_chance, on_pooled


class GumbelGate(Gate):
    """Global average pool -> (1x1 conv to `hidden`, batch norm, ReLU) -> 1x1 conv to two logits -> softmax.

    With 16 hidden channels it is ConvNet-AIG's gate (Veit & Belongie 2018, arXiv:1711.11503, section 3.2), without
    hidden layer LASNet's masker for whole layers (Han et al. 2022, arXiv:2210.06223). The output is the probability of
    the second logit. In training `noise` adds Gumbel noise to the difference of the logits (see `Concrete`), and
    probabilities without noise are passed to `Tape.say` under the gate's name; `chances_said` collects them. `biases`:
    initial biases of the logits; `std`: standard deviation of the head's initial weights, None for the layer's default.
    """

    def __init__(
        self, channels: int, hidden: int | None, biases: tuple[float, float], std: float | None = 0.001
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        if hidden is not None:
            reduce = nn.Conv2d(channels, hidden, 1, bias=False)
            nn.init.kaiming_normal_(reduce.weight, mode="fan_out")
            layers += [reduce, nn.BatchNorm2d(hidden), nn.ReLU()]
        self.hidden = nn.Sequential(*layers)
        self.head = nn.Conv2d(hidden or channels, 2, 1)
        self.noise = Concrete()
        if std is not None:
            nn.init.normal_(self.head.weight, std=std)
        with torch.no_grad():
            self.head.bias.copy_(torch.tensor(biases))  # type: ignore[union-attr]

    def forward(self, x: Tensor) -> Tensor:
        """Probability (B, 1) that the body runs for features (B, C, H, W); noisy in training."""
        skip, run = self.logits(x).chunk(2, dim=1)
        logits = run - skip  # (B, 1)
        if self.tape.listens:
            self.tape.say(self.site, logits.sigmoid())
        chance: Tensor = self.noise(logits)
        return chance

    def logits(self, x: Tensor) -> Tensor:
        """See `Gate.logits`."""
        layers = self.hidden._modules.values()
        if any(isinstance(layer, nn.BatchNorm2d) for layer in layers):  # as modules, so that folding observes the calls
            x = self.hidden(x.mean(dim=(2, 3), keepdim=True)).flatten(1)  # (B, hidden)
        else:
            for layer in layers:
                x = on_pooled(layer, x) if isinstance(layer, nn.Conv2d) else in_place(layer, x)
        return as_chance(on_pooled(self.head, x))  # (B, 2)

    def description(self) -> GateDescription | None:
        """See `Gate.description`; None while the batch norm is not folded."""
        hidden = [layer for layer in self.hidden if type(layer) is not nn.Identity]
        if not all(isinstance(layer, nn.Conv2d | nn.ReLU) for layer in hidden):
            return None
        convolutions = [layer for layer in hidden if isinstance(layer, nn.Conv2d)]
        return GateDescription((*convolutions, self.head), (*[True] * len(convolutions), False))


def chances_said(output: Output) -> Tensor:
    """The probabilities without noise of all maskers in a pass, (B, gates), in the order of sites."""
    return torch.cat([output.said[f"{site}.gate"] for site in output.trace], dim=1)


def set_noise(net: Net, temperature: float, noisy: bool) -> None:
    """Set the temperature of all maskers' noise, and whether there is noise."""
    for module in net.modules():
        if isinstance(module, GumbelGate):
            module.noise.temperature, module.noise.noisy = temperature, noisy
