"""Runs a method's stages on a built network, and keeps what was learnt."""

from dyncomp.train.checkpoint import load_checkpoint, save_checkpoint
from dyncomp.train.loop import Diverged, Progress, StageLog, train
from dyncomp.train.recipe import Recipe

__all__ = [
    "Diverged",
    "Progress",
    "Recipe",
    "StageLog",
    "load_checkpoint",
    "save_checkpoint",
    "train",
]
