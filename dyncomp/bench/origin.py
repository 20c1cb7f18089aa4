"""Imported last by the process that others are copied from: makes it ready to be copied."""

from __future__ import annotations

import gc
import warnings

from dyncomp.registry import BACKBONES, DATASETS, METHODS

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # the program itself warns of plugins that cannot be read
    for registry in (METHODS, BACKBONES, DATASETS):
        registry.scan()

# A collection in a copy would write to every object of torch, and so copy all of their memory, for half a second.
gc.freeze()
