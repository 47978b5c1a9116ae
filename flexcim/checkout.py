"""Where FlexCiM's repository lies, if the package is run from one, and where what is built once is kept."""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["build_folder", "checkout"]


def checkout() -> Path | None:
    """The root of the repository that this package is run from, also by an editable install; None from a wheel.

    Only in the repository the wings are folders of their own; a wheel has all packages side by side.
    """
    root = Path(__file__).resolve().parents[1]
    return root if (root / "sim" / "flexcim_sim").is_dir() else None


def build_folder(name: str) -> Path:
    """Folder of one kind of builds, which are kept from run to run: so called, in the folder that FLEXCIM_BUILD names.

    By default that is ``build`` in a checkout, and ``flexcim`` in the user's cache folder where there is none; the
    cache folder is that which XDG_CACHE_HOME names, or ``~/.cache``.
    """
    named = os.environ.get("FLEXCIM_BUILD")
    if named:
        return Path(named).absolute() / name
    root = checkout()
    if root:
        return root / "build" / name
    # By the XDG Base Directory Specification, a relative path in the variable is invalid, and to be ignored.
    cache = Path(os.environ.get("XDG_CACHE_HOME", ""))
    return (cache if cache.is_absolute() else Path.home() / ".cache") / "flexcim" / name
