"""Where FlexCiM's repository lies, if the package is run from one."""

from __future__ import annotations

from pathlib import Path

__all__ = ["checkout"]


def checkout() -> Path | None:
    """The root of the repository that this package is run from, also by an editable install; None from a wheel.

    Only in the repository the wings are folders of their own; a wheel has all packages side by side.
    """
    root = Path(__file__).resolve().parents[1]
    return root if (root / "sim" / "flexcim_sim").is_dir() else None
