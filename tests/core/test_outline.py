"""Networks with shapes and without numbers."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from dyncomp.conformance.examples import backbone_examples
from dyncomp.core.outline import outlined
from dyncomp.registry import BACKBONES


@pytest.mark.parametrize("name", backbone_examples())
def test_it_has_the_tensors_of_the_network(name: str) -> None:
    family = BACKBONES.create(name)
    full = family.make(7, 3, 32).model.state_dict()
    with outlined():
        outline = family.make(7, 3, 32).model.state_dict()
    assert all(tensor.is_meta for tensor in outline.values())
    assert {key: (one.shape, one.dtype) for key, one in outline.items()} == {
        key: (one.shape, one.dtype) for key, one in full.items()
    }


def test_no_random_number_is_drawn_and_no_tensor_of_another_device_left_out() -> None:
    before = torch.get_rng_state()
    with outlined():
        nn.Conv2d(3, 8, 3)
        nn.init.trunc_normal_(torch.empty(4, 4))
        assert torch.equal(torch.get_rng_state(), before)
        filled = nn.init.constant_(torch.empty(3, device="cpu"), 2.0)
        assert torch.equal(filled.zero_(), torch.zeros(3, device="cpu"))
        with pytest.raises(ValueError, match="Mode"):
            nn.init.kaiming_normal_(torch.empty(4, 4, device="cpu"), mode="nonsense")  # type: ignore[arg-type]
    assert torch.empty(1).device.type == "cpu"
