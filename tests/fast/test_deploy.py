"""Networks made ready for use: what is folded and what is not, against torch's own folding and against the network."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.fx.experimental.optimization import fuse
from torchvision.models import get_model

from dyncomp import build
from dyncomp.conformance.deployment import stirred
from dyncomp.conformance.examples import backbone_examples
from dyncomp.core import Net, measure_costs
from dyncomp.errors import CannotDeploy
from dyncomp.fast import deployed
from dyncomp.fast.deploy import folded
from dyncomp.fast.folding import batch_norms
from dyncomp.train import load_checkpoint, save_checkpoint
from tests.registered import marks_of
from tests.small import C, images, mixed, network


def stir(model: nn.Module) -> nn.Module:
    """In double precision, its normalisations far from the identity, in evaluation mode."""
    draw = torch.Generator().manual_seed(0)
    for module in model.double().modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d):
            for tensor in (*module.parameters(), *module.buffers()):
                if tensor.is_floating_point():
                    tensor.data.copy_(torch.rand(tensor.shape, generator=draw) + 0.5)
    return model.eval()


@torch.no_grad()
def same(model: nn.Module, other: nn.Module, x: Tensor) -> bool:
    wanted = model(x)
    return float((other(x) - wanted).abs().max()) <= 1e-9 * float(wanted.abs().max())


LARGE = ("densenet121", "googlenet")
"""networks of so many layers that a test takes half a minute"""


@pytest.mark.parametrize(
    "name",
    [
        *("resnet18", "mobilenet_v3_small", "shufflenet_v2_x0_5", "mnasnet0_5"),
        *(pytest.param(name, marks=pytest.mark.slow) for name in LARGE),
    ],
)
def test_torchvisions_networks_fold_as_torch_folds_them(name: str) -> None:
    model = stir(get_model(name, **({"init_weights": False, "aux_logits": False} if name == "googlenet" else {})))
    x = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    ready, reference = folded(model, x[:1]), fuse(model)
    assert same(reference, ready, x)
    assert same(model, ready, x)
    assert len(batch_norms(ready)) == len(batch_norms(reference)) < len(batch_norms(model))


@pytest.mark.parametrize("backbone", [pytest.param(b, marks=marks_of("", b)) for b in backbone_examples()])
def test_no_batch_norm_is_left_in_a_plain_backbone(backbone: str) -> None:
    net = build("static", backbone, classes=5, image_size=32)
    ready = deployed(net)
    assert batch_norms(ready) == []
    assert ready.costs == net.costs == measure_costs(ready, torch.zeros(1, 3, 32, 32))
    assert not [module for module in ready.modules() if isinstance(module, nn.Dropout)]


def chain(*layers: nn.Module) -> nn.Module:
    return nn.Sequential(*layers)


FOLDED: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "with a bias": (lambda: chain(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU()), (2, 3, 5, 5)),
    "padded, strided, dilated": (
        lambda: chain(nn.Conv2d(3, 4, 3, 2, 2, 2, bias=False), nn.BatchNorm2d(4)),
        (2, 3, 9, 9),
    ),
    "depthwise": (lambda: chain(nn.Conv2d(4, 8, 3, groups=4, bias=False), nn.BatchNorm2d(8)), (2, 4, 5, 5)),
    "mirrored border": (
        lambda: chain(nn.Conv2d(3, 4, 3, padding=1, padding_mode="reflect"), nn.BatchNorm2d(4)),
        (2, 3, 5, 5),
    ),
    "without scale": (lambda: chain(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, affine=False)), (2, 3, 5, 5)),
    "linear": (lambda: chain(nn.Linear(3, 4, bias=False), nn.BatchNorm1d(4)), (2, 3)),
    "a line": (lambda: chain(nn.Conv1d(3, 4, 3), nn.BatchNorm1d(4)), (2, 3, 5)),
    "a volume": (lambda: chain(nn.Conv3d(3, 4, 3), nn.BatchNorm3d(4)), (2, 3, 5, 5, 5)),
    "nested, with dropout": (
        lambda: chain(chain(nn.Conv2d(3, 4, 3), nn.Identity()), nn.Dropout2d(0.5), chain(nn.BatchNorm2d(4)), nn.SiLU()),
        (2, 3, 5, 5),
    ),
}


@pytest.mark.parametrize("case", FOLDED)
def test_what_is_folded_gives_the_same(case: str) -> None:
    make, shape = FOLDED[case]
    model, x = stir(make()), torch.randn(shape, dtype=torch.float64)
    state = copy.deepcopy(model.state_dict())
    ready = folded(model, x)
    assert batch_norms(ready) == []
    assert same(model, ready, x)
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert not any(parameter.requires_grad for parameter in ready.parameters())


class Reads(nn.Module):
    """A normalisation behind a linear layer on a sequence acts on places, not on the features."""

    def __init__(self) -> None:
        super().__init__()
        self.linear, self.norm = nn.Linear(4, 4), nn.BatchNorm1d(4)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.norm(self.linear(x))
        return y


def norm_of_the_batch() -> nn.Module:
    return chain(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, track_running_stats=False))


def hooked() -> nn.Module:
    model = chain(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    model[0].register_forward_hook(lambda module, inputs, output: output * 2)  # type: ignore[index,operator]
    return model


def reparametrised() -> nn.Module:
    return chain(nn.utils.parametrizations.weight_norm(nn.Conv2d(3, 4, 3)), nn.BatchNorm2d(4))


NOT_FOLDED: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "normalisation first": (lambda: chain(nn.BatchNorm2d(3), nn.Conv2d(3, 4, 3, padding=1)), (2, 3, 5, 5)),
    "activation between": (lambda: chain(nn.Conv2d(3, 4, 3), nn.ReLU(inplace=True), nn.BatchNorm2d(4)), (2, 3, 5, 5)),
    "statistics of the batch": (norm_of_the_batch, (2, 3, 5, 5)),
    "transposed": (lambda: chain(nn.ConvTranspose2d(3, 4, 3), nn.BatchNorm2d(4)), (2, 3, 5, 5)),
    "hooked": (hooked, (2, 3, 5, 5)),
    "reparametrised": (reparametrised, (2, 3, 5, 5)),
    "places, not features": (Reads, (2, 4, 4)),
}


@pytest.mark.parametrize("case", NOT_FOLDED)
def test_what_is_not_safe_is_not_folded(case: str) -> None:
    make, shape = NOT_FOLDED[case]
    model, x = stir(make()), torch.randn(shape, dtype=torch.float64)
    ready = folded(model, x)
    assert batch_norms(ready) == batch_norms(model)
    assert same(model, ready, x)


class Holds(nn.Module):
    """Runs its layers from a list of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)])
        self.own = list(self.layers)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.own:
            x = layer(x)
        return x


def test_a_folded_normalisation_that_somebody_still_holds_does_nothing() -> None:
    model, x = stir(Holds()), torch.randn(2, 3, 5, 5, dtype=torch.float64)
    ready = folded(model, x)
    assert batch_norms(ready) == []
    assert same(model, ready, x)


class ByIndex(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Identity(), nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 4, 1))

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.layers[2](self.layers[1](x))
        return y


class ByWeights(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.whole = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), True

    def forward(self, x: Tensor) -> Tensor:
        assert self.norm.running_mean is not None
        y: Tensor = self.norm(self.conv(x))
        return y + self.norm.running_mean.mean()


class ByStatistics(Holds):
    def forward(self, x: Tensor) -> Tensor:
        mean = self.own[1].running_mean
        assert isinstance(mean, Tensor)
        return super().forward(x) + mean.mean()


REFUSED = [
    (ByIndex, r"fails \(RuntimeError: "),
    (ByWeights, r"fails \(AttributeError: "),
    (ByStatistics, r"answers otherwise \(by \d"),
]


@pytest.mark.parametrize(("make", "says"), REFUSED)
def test_a_network_that_reads_what_is_folded_is_refused_in_one_line(make: type[nn.Module], says: str) -> None:
    with pytest.raises(CannotDeploy, match=f"^made ready for use, the network {says}.*call the modules") as caught:
        folded(stir(make()), torch.randn(1, 3, 5, 5, dtype=torch.float64))
    assert "\n" not in str(caught.value)


def experts(bias: bool) -> Callable[[], list[nn.Module]]:
    def make() -> list[nn.Module]:
        return [mixed(chain(nn.Conv2d(C, C, 3, padding=1, bias=bias), nn.BatchNorm2d(C), nn.ReLU()))]

    return make


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("mode", ["kernels", "outputs"])
def test_every_expert_is_scaled_and_the_shift_is_not_mixed(bias: bool, mode: str) -> None:
    """Against the mix spelled out: convolve with the mixed kernel and bias, then normalise."""
    net = stirred(network(experts(bias)))
    ready = deployed(net)
    (op,) = ready.sites.values()
    op.mixture.mode = mode  # type: ignore[union-attr]
    assert batch_norms(ready) == []
    x = images()
    with torch.no_grad():
        wanted, weight = by_hand(net, x)
        for sparse in (True, False):
            output = ready(x, sparse=sparse)
            torch.testing.assert_close(output.logits, wanted, rtol=1e-12, atol=1e-12)
            torch.testing.assert_close(next(iter(output.trace.values())).weight, weight)
    assert not torch.allclose(weight.sum(dim=1), torch.ones(len(x), dtype=weight.dtype), atol=0.1)  # else all is one


def by_hand(net: Net, x: Tensor) -> tuple[Tensor, Tensor]:
    """Logits and mixing weights (B, K), one image at a time."""
    op, pool, flat, linear = net.model.children()  # type: ignore[misc]
    layer, norm, relu = op.block.children()
    weight = op.router(x)
    maps = []
    for image, shares in zip(x, weight, strict=True):
        kernel = sum(share * layer.kernel(k) for k, share in enumerate(shares))
        bias = None if layer.bias is None else shares @ layer.bias
        maps.append(relu(norm(nn.functional.conv2d(image[None], kernel, bias, padding=1))))
    return linear(flat(pool(torch.cat(maps)))), weight


def test_a_copy_made_in_inference_mode_is_as_one_made_outside() -> None:
    net = build("skipnet", "cifar_resnet8", classes=5, image_size=16)
    with torch.inference_mode():
        ready, module = deployed(net), folded(net.model, torch.randn(1, 3, 16, 16))
    assert not any(parameter.is_inference() for made in (ready, module) for parameter in made.parameters())


def test_a_network_without_costs_cannot_be_deployed() -> None:
    net = network(experts(True))
    net.costs = None
    with pytest.raises(RuntimeError, match="no costs yet"):
        deployed(net)


def test_deploying_leaves_the_network_as_it_is() -> None:
    net = build("skipnet", "cifar_resnet8", classes=5, image_size=16)
    before, modules = copy.deepcopy(net.state_dict()), [type(module) for module in net.modules()]
    net.train()
    ready = deployed(net)
    assert not ready.training and net.training
    assert [type(module) for module in net.modules()] == modules
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert set(ready.origins) < set(net.origins) and set(ready.origins) <= set(ready.state_dict())
    assert deployed(ready).costs == net.costs  # again, and nothing is left to do
    kernels = [module.weight for module in ready.modules() if isinstance(module, nn.Conv2d)]
    assert all(kernel.is_contiguous(memory_format=torch.channels_last) for kernel in kernels)


@torch.no_grad()
def test_a_checkpoint_deployed_answers_as_the_trained_network(tmp_path: Path) -> None:
    trained = stirred(build("fbs", "cifar_resnet8", classes=5, image_size=16, seed=1).double())
    save_checkpoint(trained, tmp_path / "net.safetensors", {})
    loaded = build("fbs", "cifar_resnet8", classes=5, image_size=16, seed=2).double()
    load_checkpoint(loaded, tmp_path / "net.safetensors")
    x = torch.randn(5, 3, 16, 16, dtype=torch.float64)
    wanted, ready = trained(x), deployed(loaded)
    torch.testing.assert_close(ready(x).logits, wanted.logits, rtol=1e-9, atol=1e-9)
    assert torch.equal(ready(x).trace.routes(), wanted.trace.routes())
    assert not torch.allclose(deployed(trained)(x * 2).logits, wanted.logits)
