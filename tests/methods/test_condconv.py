"""CondConv as a method: which layers have experts, on which backbones, and which values it takes."""

from __future__ import annotations

import pytest
import torch

from dyncomp import build, create_method
from dyncomp.core import Net
from dyncomp.errors import CannotAttach, InvalidValue, UnknownName
from dyncomp.ops import Mixed
from dyncomp.ops.experts import ExpertLayer

SMALL = {"classes": 5, "image_size": 16}


def mixed_parts(net: Net) -> list[str]:
    return [name.removeprefix("model.") for name, op in net.sites.items() if isinstance(op, Mixed)]


@pytest.mark.parametrize(
    ("backbone", "first", "blocks", "classifier"),
    [
        ("mobilenet_v1(width=0.25)", 6, 13, True),  # the paper's text: separable blocks 6 to 13 and the classifier
        ("resnet50", 14, 16, False),  # the last stage
        ("mobilenet_v2", 12, 17, True),
        ("efficientnet_b0", 9, 16, False),  # the last three stages
        ("cifar_resnet14", 4, 6, False),  # not in the paper: the later half
        ("resnet18", 5, 8, False),
    ],
)
def test_the_papers_layers_have_experts(backbone: str, first: int, blocks: int, classifier: bool) -> None:
    net = build("condconv(experts=2)", backbone, **SMALL)
    plain = net.model
    assert len(plain.blocks) == blocks
    wanted = [*plain.blocks[first - 1 :], *([plain.classifier] if classifier else [])]
    assert mixed_parts(net) == wanted
    experts = [name for name, m in net.named_modules() if isinstance(m, ExpertLayer)]
    assert all(any(part in name for part in wanted) for name in experts)


def test_squeeze_and_excitation_has_no_experts() -> None:
    net = build("condconv(experts=2, begin=1)", "efficientnet_b0", **SMALL)
    squeezes = [m for m in net.modules() if type(m).__name__ == "SqueezeExcitation"]
    assert len(squeezes) == 16
    assert not any(isinstance(part, ExpertLayer) for m in squeezes for part in m.modules())


def test_begin_and_classifier_can_be_chosen() -> None:
    net = build("condconv(experts=2, begin=2, classifier=True)", "cifar_resnet8", **SMALL)
    assert mixed_parts(net) == [*net.model.blocks[1:], net.model.classifier]
    net = build("condconv(experts=2, classifier=False)", "mobilenet_v1(width=0.25)", **SMALL)
    assert mixed_parts(net) == list(net.model.blocks[5:])


def test_a_projection_shortcut_has_experts_too() -> None:
    net = build("condconv(experts=2, begin=1)", "cifar_resnet8", **SMALL)
    experts = {name for name, m in net.named_modules() if isinstance(m, ExpertLayer)}
    assert sum(".shortcut" in name for name in experts) == 2  # stages 2 and 3


def test_begin_beyond_the_last_block_is_refused() -> None:
    message = r"^condconv: begin=4, but cifar_resnet8.* has 3 blocks; give begin from 1 to 3$"
    with pytest.raises(CannotAttach, match=message):
        build("condconv(begin=4)", "cifar_resnet8", **SMALL)


@pytest.mark.parametrize(
    ("spec", "error", "named"),
    [
        ("condconv(experts=0)", InvalidValue, "experts=0"),
        ("condconv(experts=2.5)", InvalidValue, "experts=2.5"),
        ("condconv(temperature=0)", InvalidValue, "temperature=0"),
        ("condconv(routing='hard')", InvalidValue, "softmax"),
        ("condconv(mode='fast')", InvalidValue, "outputs"),
        ("condconv(norm='layer')", InvalidValue, "group"),
        ("condconv(begin=0)", InvalidValue, "begin=0"),
        ("condconv(expert=4)", UnknownName, "did you mean experts"),
    ],
)
def test_wrong_values_are_said_in_one_line(spec: str, error: type[Exception], named: str) -> None:
    with pytest.raises(error) as caught:
        create_method(spec)
    assert named in str(caught.value)
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith(("condconv", "unknown"))


@pytest.mark.parametrize("mode", ["auto", "kernels", "outputs"])
@torch.no_grad()
def test_the_training_mode_changes_no_answer(mode: str) -> None:
    wanted = build("condconv(experts=3, mode='kernels')", "cifar_resnet8", **SMALL).double()
    net = build(f"condconv(experts=3, mode={mode!r})", "cifar_resnet8", **SMALL).double()
    x = torch.randn(4, 3, 16, 16, dtype=torch.float64)
    torch.testing.assert_close(net(x, sparse=False).logits, wanted(x).logits, rtol=0, atol=1e-11)


@torch.no_grad()
def test_one_expert_of_weight_one_is_the_plain_layer() -> None:
    net = build("condconv(experts=1, begin=1)", "cifar_resnet8", **SMALL).double()
    plain = build("static", "cifar_resnet8", **SMALL).double()
    for name, layer in net.named_modules():
        if isinstance(layer, ExpertLayer):
            layer.kernel(0)[:] = plain.get_parameter(
                name.replace(".block.body", ".body").replace(".block.shortcut", ".shortcut") + ".weight"
            )
    x = torch.randn(4, 3, 16, 16, dtype=torch.float64)
    from dyncomp.core.decisions import all_on

    torch.testing.assert_close(net(x, decisions=all_on(net, 4)).logits, plain(x).logits, rtol=0, atol=1e-11)
