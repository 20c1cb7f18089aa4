"""The file that is read without its package against what the package reads."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from sklearn.datasets import load_digits

from dyncomp.data import digits

TEXT = (
    "import sys; from dyncomp.data import load; from dyncomp.registry import DATASETS; "
    "load(DATASETS.create('digits')); print('sklearn' in sys.modules)"
)


@pytest.mark.parametrize("file", [digits.FILE, ("moved",)], ids=["file", "package"])
def test_images_and_labels_are_the_packages(file: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(digits, "FILE", file)
    images, labels = digits._read()
    wanted = load_digits()
    assert torch.equal(images[:, 0], torch.from_numpy(wanted.images))
    assert torch.equal(labels, torch.from_numpy(wanted.target).long())
    assert [str(name) for name in wanted.target_names] == [str(digit) for digit in range(10)]


def test_the_package_is_not_imported() -> None:
    """Its import takes a second or two, of every process that trains."""
    found = subprocess.run([sys.executable, "-c", TEXT], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "False"
