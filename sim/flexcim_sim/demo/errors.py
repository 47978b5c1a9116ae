"""What a demonstration that cannot be given raises."""

from __future__ import annotations

from flexcim.errors import FlexCiMError

__all__ = ["DemoError"]


class DemoError(FlexCiMError):
    """A demonstration that cannot be given; the message is one sentence."""
