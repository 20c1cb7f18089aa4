"""Where a backbone's filters have switches, and what narrowed layers and shifts keep."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from dyncomp.core import Backbone, Decision, Net, measure_costs
from dyncomp.core.measure import count_executed_macs
from dyncomp.core.op import with_strongest
from dyncomp.errors import CannotAttach
from dyncomp.fast import deployed
from dyncomp.ops import Filtered, Switch, with_switches
from dyncomp.ops.channel_subsets import Shift, on_channels
from dyncomp.ops.filtered import alike
from dyncomp.ops.filtered_placement import switch_backbone
from dyncomp.ops.rows import is_channels_last
from dyncomp.registry import BACKBONES


class Open(Switch):
    """Everything on, whatever the image."""

    def __init__(self, producer: nn.Conv2d) -> None:
        super().__init__()
        self.units = producer.out_channels

    def forward(self, pooled: Tensor) -> Decision:
        return Decision(*[pooled.new_ones(len(pooled), self.units)] * 3)


def make(spec: str) -> Backbone:
    torch.manual_seed(0)
    return BACKBONES.create(spec).build(5, 3, 32)


PLACES = {
    "cifar_resnet8": [f"stages.{stage}.0.body.conv1" for stage in range(3)],
    "resnet18": [f"layer{stage}.{block}.body.conv1" for stage in range(1, 5) for block in range(2)],
    "vgg11(width=0.125)": [f"blocks.{block}.conv" for block in range(8)],  # the last one's filters: the classifier
    "vgg11(width=0.125, head='imagenet')": [f"blocks.{block}.conv" for block in range(7)],  # 49 features per filter
    "mobilenet_v1(width=0.25)": [f"blocks.{block}.pointwise" for block in range(13)],  # not the stem's
}


@pytest.mark.parametrize("spec", PLACES)
def test_filters_that_one_layer_reads_have_switches(spec: str) -> None:
    backbone, x = make(spec).double().eval(), torch.randn(2, 3, 32, 32, dtype=torch.float64)
    wanted = backbone(x)
    layers = {id(module): name for name, module in backbone.model.named_modules()}
    net = Net(switch_backbone(backbone, Open)).double().eval()
    assert [layers[id(op.producer)] for op in net.sites.values() if isinstance(op, Filtered)] == PLACES[spec]
    torch.testing.assert_close(net(x, sparse=True).logits, wanted, rtol=0, atol=1e-10)
    torch.testing.assert_close(net(x, sparse=False).logits, wanted, rtol=0, atol=1e-10)


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ("efficientnet_b0", r"^mine: in 2 of 16 blocks of efficientnet_b0 .*squeeze-and-excitation"),
        ("vgg11(width=0.125, groups='implicit')", r"^mine: in 1 of 8 blocks of vgg11 .*filter groups"),
        ("msdnet(blocks=3, base=2, step=1, channels=8, head=16)", "^mine: the blocks of msdnet .*several scales"),
    ],
)
def test_a_backbone_with_next_to_no_place_is_refused_in_one_line(spec: str, said: str) -> None:
    with pytest.raises(CannotAttach, match=said) as caught:
        switch_backbone(make(spec), Open, method="mine")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "between",
    [[nn.Softmax(dim=1)], [nn.Conv2d(4, 4, 3, groups=2)], [nn.Flatten()], [nn.Sequential(nn.Upsample(2))]],
)
def test_a_layer_that_mixes_channels_or_reads_pixels_hinders(between: list[nn.Module]) -> None:
    reader = nn.Linear(4 * 9, 2) if isinstance(between[0], nn.Flatten) else nn.Conv2d(4, 2, 1)
    chain = with_switches([nn.Conv2d(3, 4, 3), *between, reader], Open)
    assert not [layer for layer in chain if isinstance(layer, Filtered)]


def test_half_of_the_filters_of_a_chain_cost_a_quarter_of_its_inner_layers() -> None:
    net = Net(switch_backbone(make("vgg11(width=0.125)"), Open)).eval()
    net.costs = measure_costs(net, torch.zeros(1, 3, 32, 32))
    # inputs * filters / halvings of the map, in units of 9 * 32 * 32; of five poolings 32 pixels keep the last four
    plain = 3 * 8 + 8 * 16 + (16 * 32 + 32 * 32) / 4 + (32 * 64 + 64 * 64) / 16 + (64 * 64 + 64 * 64) / 64
    half = {site: torch.arange(op.units).remainder(2).double()[None] for site, op in net.sites.items()}
    price = net(torch.zeros(1, 3, 32, 32), decisions={s: Decision(h, h, h) for s, h in half.items()}).macs()
    first, classifier = 3 * 8 * 9 * 32 * 32, 64 * 5
    inner = net.costs.full - first - classifier
    assert net.costs.full == net.costs.without_overhead  # these switches have no layer
    assert inner == 9 * 32 * 32 * plain - first
    assert float(price) == first / 2 + inner / 4 + classifier / 2


def test_an_image_keeps_its_strongest_unit() -> None:
    used = torch.tensor([[0.0, 0.0, 0.0], [0.0, 1.0, 0.0]])
    score = torch.tensor([[0.1, 0.3, 0.2], [0.9, 0.1, 0.2]])
    assert with_strongest(used, score).tolist() == [[0, 1, 0], [0, 1, 0]]


def test_a_shift_takes_a_parameter_over_and_copies_a_tensor() -> None:
    norm = nn.BatchNorm2d(3)
    assert Shift(norm.bias).bias is norm.bias
    value = torch.tensor([1.0, 2.0])
    shift = Shift(value)
    value.zero_()
    assert shift(torch.zeros(1, 2, 1, 1)).flatten().tolist() == [1, 2]


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_a_kernel_is_cut_in_both_dimensions(layout: torch.memory_format) -> None:
    conv = nn.Conv2d(6, 5, 3, padding=1).double().to(memory_format=layout)
    inputs, outputs = torch.tensor([0, 2, 5]), torch.tensor([4, 1])
    x = torch.randn(2, 6, 4, 4, dtype=torch.float64)
    alone = torch.zeros_like(x).index_copy(1, inputs, x[:, inputs])  # the others are not there
    cut = on_channels(conv, x[:, inputs], inputs, outputs, lambda run, *args: run(*args))
    torch.testing.assert_close(cut, conv(alone)[:, outputs], rtol=0, atol=1e-13)


def test_rows_that_use_the_same_are_found() -> None:
    used = torch.tensor([[1, 0, 1], [0, 1, 1], [1, 0, 1], [1, 1, 1]]).float()
    assert alike(used) == [[0, 2], [1], [3]]


class Given(Open):
    """Every image uses what its first channel's rounded mean says: one of four sets."""

    def forward(self, pooled: Tensor) -> Decision:
        bits = pooled[:, :1].round().long() % 4  # (B, 1)
        used = ((torch.arange(self.units) + bits) % 4 < 2).to(pooled)
        return Decision(used, used, used)


@pytest.mark.parametrize("which", [[0, 1, 2, 3, 2, 1, 0], [0, 1, 2, 3], [1, 1, 1], [2]])
@torch.no_grad()
def test_images_with_filter_sets_of_their_own_keep_order_and_layout(which: list[int]) -> None:
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 4, 1)]
    net = Net(nn.Sequential(*with_switches(layers, Given))).double().eval()
    x = torch.randn(len(which), 3, 6, 6, dtype=torch.float64) * 0.1
    x[:, 0] += torch.tensor(which, dtype=torch.float64)[:, None, None] - x[:, 0].mean(dim=(1, 2), keepdim=True)
    x = x.contiguous(memory_format=torch.channels_last)
    net.costs = measure_costs(net, x[:1])
    dense, sparse = net(x, sparse=False), net(x)
    torch.testing.assert_close(sparse.logits, dense.logits, rtol=0, atol=1e-12)
    assert is_channels_last(sparse.logits)
    assert count_executed_macs(net, x) == int(sparse.macs().sum())
    torch.testing.assert_close(deployed(net)(x).logits, dense.logits, rtol=0, atol=1e-12)


@pytest.mark.parametrize("given", [{"padding_mode": "reflect"}, {"padding": "same"}])
@pytest.mark.parametrize("place", ["producer", "depthwise", "reader"])
def test_convolutions_that_cannot_be_cut_have_no_switch(place: str, given: dict[str, str]) -> None:
    padded = {"padding": 1, **given}
    layers = {
        "producer": nn.Conv2d(3, 4, 3, padding=1),
        "depthwise": nn.Conv2d(4, 4, 3, padding=1, groups=4),
        "reader": nn.Conv2d(4, 5, 3, padding=1),
    }
    assert any(isinstance(layer, Filtered) for layer in with_switches(layers.values(), Open))
    plain = layers[place]
    layers[place] = nn.Conv2d(plain.in_channels, plain.out_channels, 3, groups=plain.groups, **padded)  # type: ignore[arg-type]
    chain = with_switches(layers.values(), Open)
    assert not any(isinstance(layer, Filtered) for layer in chain)
