"""Memory that is used again: only where a run shows that nobody needs what was there."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import pytest
import torch
from torch import Tensor, nn

from dyncomp import build
from dyncomp.core import Net, ResidualBlock, execute_and_count
from dyncomp.core.decisions import all_on, least, random
from dyncomp.core.inplace import makes_new
from dyncomp.fast import deployed
from dyncomp.fast.dataflow.sole_inputs import sole_inputs
from dyncomp.fast.fusion.run import Run
from dyncomp.ops import Gated
from tests.small import C, LinearGate, conv, images, network, only

LAYOUTS = [torch.contiguous_format, torch.channels_last]


def block(form: Literal["output", "residual"] = "output", shortcut: nn.Module | None = None) -> Gated:
    return Gated(ResidualBlock(conv(), shortcut or nn.Identity(), nn.ReLU()), LinearGate(), form)


class ReadsAgain(nn.Module):
    """Gated blocks in a row, of whose first one's input somebody reads later, directly or through a view."""

    def __init__(self, through_a_view: bool) -> None:
        super().__init__()
        self.stem, self.blocks = conv(1), nn.Sequential(block(), block("residual"), block())
        self.through_a_view = through_a_view

    def forward(self, x: Tensor) -> Tensor:
        features = self.stem(x)
        again = features[:, :, 1:] if self.through_a_view else features
        y: Tensor = self.blocks(features)
        return y + again.mean(dim=2, keepdim=True)


class ReadsImages(nn.Module):
    """The first gated block reads the user's images themselves, or what may be they in another layout."""

    def __init__(self, layout: torch.memory_format | None = None) -> None:
        super().__init__()
        self.blocks, self.layout = nn.Sequential(block(), block()), layout

    def forward(self, x: Tensor) -> Tensor:
        x = x if self.layout is None else x.contiguous(memory_format=self.layout)
        y: Tensor = self.blocks(x)
        return y


class Keeps(nn.Module):
    """Gives features that it makes once and keeps for all passes."""

    def __init__(self) -> None:
        super().__init__()
        self.kept: Tensor | None = None
        self.block = block()

    def forward(self, x: Tensor) -> Tensor:
        if self.kept is None:
            self.kept = torch.ones_like(x[:1])
        y: Tensor = self.block(self.kept)
        return x + y


def inner() -> Gated:
    return Gated(ResidualBlock(nn.Sequential(block(), conv(), block()), nn.Identity(), nn.ReLU()), LinearGate())


MAKES: dict[str, Callable[[], list[nn.Module]]] = {
    "a row": lambda: [conv(), block(), block("residual"), block(), block("residual")],
    "projections": lambda: [conv(), block(shortcut=conv(1)), block("residual", conv(1)), block()],
    "a shortcut that may be a view": lambda: [conv(), block(shortcut=nn.Sequential(nn.Identity())), block()],
    "nested": lambda: [conv(), inner(), block(), inner()],
    "read again": lambda: [ReadsAgain(through_a_view=False), block()],
    "read again through a view": lambda: [ReadsAgain(through_a_view=True), block()],
    "images": lambda: [ReadsImages()],
    "images as they lie": lambda: [ReadsImages(torch.contiguous_format)],
    "images in the other layout": lambda: [ReadsImages(torch.channels_last)],
}


def ways(net: Net, count: int) -> dict[str, dict | None]:
    draw = torch.Generator().manual_seed(0)
    drawn = {f"random {i}": random(net, count, draw) for i in range(5)}
    first = {site: only([0] * count) for site in list(net.sites)[:1]}
    return {"own": None, "all on": all_on(net, count), "none": least(net, count), "not the first": first, **drawn}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("case", MAKES)
def test_overwriting_changes_no_answer_and_no_image(case: str, layout: torch.memory_format) -> None:
    net, count = network(MAKES[case]), 7
    ready = deployed(net)
    for way, forced in ways(net, count).items():
        for record in (True, False):
            x = images(count).contiguous(memory_format=layout)
            with torch.no_grad():
                wanted = net(x, sparse=False, decisions=forced)
            with torch.inference_mode():
                got = ready(x, sparse=True, decisions=forced, record=record)
            torch.testing.assert_close(got.logits, wanted.logits, rtol=0, atol=1e-10, msg=f"{way}, {record}")
            assert torch.equal(x, images(count)), way
        assert execute_and_count(ready, images(count), forced).macs == int(wanted.macs().sum()), way


@pytest.mark.parametrize("case", MAKES)
@torch.inference_mode()
def test_a_batch_is_its_images_one_by_one(case: str) -> None:
    ready, x = deployed(network(MAKES[case])), images(8)
    alone = torch.cat([ready(image[None], record=False).logits for image in x])
    torch.testing.assert_close(ready(x, record=False).logits, alone, rtol=0, atol=1e-11)
    assert torch.equal(x, images(8))


def alone(net: Net) -> list[bool | None]:
    return [op.block.reads_alone for op in net.sites.values() if isinstance(op, Gated)]


def test_what_was_shown() -> None:
    shown = {case: alone(deployed(network(make))) for case, make in MAKES.items()}
    assert shown["a row"] == [True] * 4
    assert shown["nested"] == [True, False, True, True, True, False, True]  # the outer shortcut reads it again
    assert shown["read again"] == shown["read again through a view"] == [False, True, True, True]
    assert all(shown[case] == [False, True] for case in MAKES if case.startswith("images"))
    assert alone(network(MAKES["a row"])) == [None] * 4


def test_what_is_kept_from_pass_to_pass_is_not_overwritten() -> None:
    net = network(lambda: [Keeps()])
    assert alone(deployed(net)) == [False]


@pytest.mark.parametrize("spec", ["skipnet", "convnet_aig", "blockdrop"])
@torch.inference_mode()
def test_memory_is_really_used_again(spec: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What leaves a block that keeps its shape lies where what entered lay, also where some of the images skip it."""
    ready = deployed(build(spec, "cifar_resnet14", classes=10, image_size=8))
    blocks = [module for module in ready.modules() if getattr(module, "block", None) is not None]
    seen: list[tuple[int, int]] = []
    kind, forward = type(blocks[0]), type(blocks[0]).forward

    def watched(block: nn.Module, x: torch.Tensor) -> torch.Tensor:
        output = forward(block, x)  # type: ignore[arg-type]
        seen.append((x.data_ptr(), output.data_ptr()))
        return output

    monkeypatch.setattr(kind, "forward", watched)  # a hook might keep features: with one, nothing is used again
    monkeypatch.setattr(Run, "__call__", lambda run, x: None)  # whether a run of blocks is faster is timed: not here
    some = torch.tensor([0.0, 1.0, 0.0])[:, None]
    given = {site: op.forced(some.expand(3, op.units), some) for site, op in ready.sites.items()}
    ready(torch.rand(3, 3, 8, 8), decisions=given)
    kept = [isinstance(module.block.shortcut, nn.Identity) for module in blocks]  # type: ignore[union-attr]
    assert any(kept)
    assert [before == after for before, after in seen] == kept


def test_makes_new() -> None:
    hooked = conv()
    hooked.register_forward_hook(lambda module, inputs, output: inputs[0])
    assert makes_new(nn.Sequential(nn.ReLU(), nn.Sequential(conv())))
    assert not any(map(makes_new, (nn.Identity(), nn.Sequential(), nn.Sequential(conv(), nn.ReLU()), hooked)))


def test_a_module_that_does_not_run_or_takes_more_is_not_alone() -> None:
    class Two(nn.Module):
        def forward(self, x: Tensor, y: Tensor) -> Tensor:
            return x + y

    idle, two, one, x = nn.ReLU(), Two(), nn.ReLU(), torch.ones(1, C)
    found = sole_inputs([idle, two, one], lambda: two(one(x + 1), x), [x])
    assert found == {one}
