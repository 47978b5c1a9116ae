"""The base of every error that is the user's to mend: the command line prints its one sentence and exits with 2."""

__all__ = ["FlexCiMError"]


class FlexCiMError(ValueError):
    """Bad input; the message is one sentence that names the file, layer or parameter and the values."""
