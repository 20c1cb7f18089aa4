"""What a record says of the machine."""

from __future__ import annotations

import json
import platform
from importlib.metadata import PackageNotFoundError, version

import pytest
import torch

from dyncomp.profile import environment


def test_is_json_and_says_what_runs() -> None:
    found = environment(torch.device("cpu"))
    assert json.loads(json.dumps(found)) == found
    assert found["python"] == platform.python_version()
    assert found["torch"] == version("torch")
    assert found["threads"] == torch.get_num_threads()
    assert found["cores"] >= 1
    assert found["device"] == "cpu"
    expected = {"torchvision", "dyncomp", "machine", "processor", "platform"}
    assert all(found[name] for name in expected)


def test_a_missing_package_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(package: str) -> str:
        raise PackageNotFoundError(package)

    monkeypatch.setattr("dyncomp.profile.machine.version", absent)
    assert environment(torch.device("cpu"))["pandas"] == "not installed"
