"""The error of a configuration that cannot be."""

from __future__ import annotations

from flexcim.errors import FlexCiMError

__all__ = ["ConfigError"]


class ConfigError(FlexCiMError):
    """A configuration that breaks a rule; the message is one sentence that names the parameters and their values."""
