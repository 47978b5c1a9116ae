"""Options of the pruner and its constants, in a module that imports nothing heavy, for the command line's sake."""

from __future__ import annotations

from enum import Enum

__all__ = ["BATCH_IMAGES", "BATCH_TOKENS", "DEFAULT_LENGTH", "DEFAULT_SAMPLES", "ActivationScale"]

BATCH_TOKENS = 1024
"""Tokens that pass a model at once: enough to keep a CPU's matrix products busy; more only leaves the caches."""

BATCH_IMAGES = 4
"""Images that pass a model at once; each has one to several hundred patches."""

DEFAULT_SAMPLES = 32
"""Calibration samples."""

DEFAULT_LENGTH = 512
"""Tokens of a sample and of an evaluation window, unless the model's context is shorter."""


class ActivationScale(str, Enum):
    """Where the scale of a layer's activations comes from.

    The host that quantises the activations can give each token its own scale for nothing, and it costs less quality:
    the dense models of this repository lose 0.0005 (Llama) and 0.0001 (Mamba-2) bits per byte in int8 with a scale per
    token, 0.005 and 0.002 with one per tensor. One per tensor is what an on-chip requantizer needs.
    """

    TOKEN = "token"
    """Each token has its own, from its largest magnitude."""

    TENSOR = "tensor"
    """One for all tokens, from the largest magnitude that the calibration saw."""
