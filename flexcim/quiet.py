"""Silence for transformers, whose progress bars and advice would mix with the command's own output."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

__all__ = ["quiet"]


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep transformers from drawing bars and logging below CRITICAL for as long as the context is open.

    What it would say of interest (missing weights, unknown kinds of model) is checked by those who load models, and
    said in one sentence; what remains is advice to install GPU kernels.
    """
    # Not before it is needed: the ground floor does without transformers.
    from transformers.utils import logging

    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity(logging.CRITICAL)
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()
