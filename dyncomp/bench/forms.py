"""A trained network made ready for use in another process, with the plugins that it needs there."""

from __future__ import annotations

from pathlib import Path

import torch

from dyncomp.bench.plugins import Plugins
from dyncomp.bench.rebuild import rebuild
from dyncomp.profile import Form, Runner
from dyncomp.registry import BACKBONES, METHODS
from dyncomp.train import read_facts


def timed_form(checkpoint: Path, device: str, plugins: Plugins, form: Form) -> Runner:
    """The network in that form, ready to be timed. Raises what `rebuild` and `Runner` raise."""
    plugins.check(read_facts(checkpoint)["identity"], (METHODS, BACKBONES))
    plugins.register()
    net, _ = rebuild(checkpoint, torch.device(device))
    return Runner(net, form)
