"""The texts that options name, and those that come with FlexCiM."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import typer

import flexcim_flow
from flexcim.checkout import checkout
from flexcim.errors import FlexCiMError
from flexcim_flow.common.registry import Registry, UnknownNameError

__all__ = ["CALIBRATION_TEXT", "HELDOUT_TEXT", "OptionError", "named"]

_ROOT = checkout()
# pyproject.toml puts the repository's texts into a wheel.
_TEXTS = _ROOT / "models" / "text" if _ROOT else Path(flexcim_flow.__file__).parent / "texts"

CALIBRATION_TEXT = _TEXTS / "calibration.txt"
"""The text to calibrate on where no option names one."""

HELDOUT_TEXT = _TEXTS / "heldout.txt"
"""The text to measure on where a subcommand needs one and no option names it; no model was trained on it."""


class OptionError(FlexCiMError):
    """Options that do not go together; the message is one sentence."""


def named(registry: Registry[Any]) -> Callable[[str], str]:
    """What reads an option that names a registered thing."""

    def parse(name: str) -> str:
        try:
            return registry.check(name)
        except UnknownNameError as error:
            raise typer.BadParameter(str(error)) from None

    return parse
