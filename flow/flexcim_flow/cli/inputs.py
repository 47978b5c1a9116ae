"""The texts that options name, and those that come with FlexCiM."""

from __future__ import annotations

from pathlib import Path

import flexcim_flow
from flexcim.checkout import checkout
from flexcim.errors import FlexCiMError

__all__ = ["CALIBRATION_TEXT", "HELDOUT_TEXT", "OptionError"]

_ROOT = checkout()
# pyproject.toml puts the repository's texts into a wheel.
_TEXTS = _ROOT / "models" / "text" if _ROOT else Path(flexcim_flow.__file__).parent / "texts"

CALIBRATION_TEXT = _TEXTS / "calibration.txt"
"""The text to calibrate on where no option names one."""

HELDOUT_TEXT = _TEXTS / "heldout.txt"
"""The text to measure on where a subcommand needs one and no option names it; no model was trained on it."""


class OptionError(FlexCiMError):
    """Options that do not go together; the message is one sentence."""
