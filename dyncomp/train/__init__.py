"""Runs a method's stages on a built network, and keeps what was learnt."""

from dyncomp.train.checkpoint import load_checkpoint, read_facts, save_checkpoint, stored_numbers
from dyncomp.train.clock import Diverged, Progress, StageLog
from dyncomp.train.loop import check_budget, once, own_randomness, train
from dyncomp.train.precision import trains_in_bfloat16
from dyncomp.train.recipe import Recipe

__all__ = [
    "Diverged",
    "Progress",
    "Recipe",
    "StageLog",
    "check_budget",
    "load_checkpoint",
    "once",
    "own_randomness",
    "read_facts",
    "save_checkpoint",
    "stored_numbers",
    "train",
    "trains_in_bfloat16",
]
