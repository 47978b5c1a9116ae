"""A small packed model in a folder, and the command on it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from flexcim.cli import main
from flexcim.packed.folder import write_packed
from tests.flexcim.compiler.test_model import SHAPES, packed_model
from tests.support.accelerators import ACCELERATORS

__all__ = ["CONFIG", "call", "packed_folder"]

_SMALL = ACCELERATORS["three macros, narrow buses"]
CONFIG = replace(_SMALL, macro=replace(_SMALL.macro, banks=4))


def packed_folder(folder: Path) -> dict[str, np.ndarray]:
    """Write a packed model, and the configuration of an accelerator beside it; returns the matrices."""
    model, matrices = packed_model(CONFIG.macro, SHAPES, np.random.default_rng(121))
    write_packed(folder / "packed", model)
    CONFIG.to_toml(folder / "accelerator.toml")
    return matrices


def call(folder: Path, *arguments: str) -> int:
    """Carry out a subcommand on the packed model and the configuration of a folder."""
    return main([arguments[0], str(folder / "packed"), "--config", str(folder / "accelerator.toml"), *arguments[1:]])
