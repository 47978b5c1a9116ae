"""Options of the pruner and its constants, in a module that imports nothing heavy, for the command line's sake."""

from __future__ import annotations

from enum import Enum

__all__ = [
    "BATCH_IMAGES",
    "BATCH_TOKENS",
    "DEFAULT_LENGTH",
    "DEFAULT_SAMPLES",
    "DEFAULT_VECTORS",
    "GUARD_SAMPLES",
    "MEASURED_IMAGES",
    "ActivationScale",
    "Granularity",
    "Search",
    "Update",
]

BATCH_TOKENS = 1024
"""Tokens that pass a model at once: enough to keep a CPU's matrix products busy; more only leaves the caches."""

BATCH_IMAGES = 4
"""Images that pass a model at once; each has one to several hundred patches."""

DEFAULT_SAMPLES = 32
"""Calibration samples."""

GUARD_SAMPLES = 16
"""Most samples of text that whole pruned models are compared on."""

MEASURED_IMAGES = 64
"""Most images that costs are measured on, and most that whole pruned models are compared on: more than of texts, as an
image is one prediction only, and twice the calibration samples of the default."""

DEFAULT_LENGTH = 512
"""Tokens of a sample and of an evaluation window, unless the model's context is shorter."""

DEFAULT_VECTORS = 64
"""Vectors that pass each layer where cycles are counted."""


class ActivationScale(str, Enum):
    """Where the scale of a layer's activations comes from.

    The host that quantises the activations can give each token its own scale for nothing, and it costs less quality:
    the dense models of this repository lose 0.0005 (Llama) and 0.0001 (Mamba-2) bits per byte in int8 with a scale per
    token, 0.005 and 0.002 with one per tensor. One per tensor is what an on-chip requantizer needs.
    """

    TOKEN = "token"
    """Each token has its own, from its largest magnitude."""

    TENSOR = "tensor"
    """One for all tokens, from the largest magnitude that the calibration saw, or a percentile of them."""


class Update(str, Enum):
    """How the kept weights make up for the dropped ones (flexcim_flow.layer.updates)."""

    NONE = "none"
    LSQ = "lsq"
    """Least squares for each output: solved directly, or to a relative residual where many weights are kept."""

    OBS = "obs"
    """SparseGPT's sweep: each dropped weight is made up for by later ones; faster for wide layers."""


class Search(str, Enum):
    """How the measured method found what patterns do to the loss."""

    IN_MEMORY = "in memory"
    """The model under every pattern is in memory; what was chosen is refined in the pruned model."""

    STREAMED = "streamed"
    """One block under every pattern is in memory; nothing is refined."""


class Granularity(str, Enum):
    """What gets a pattern of its own."""

    LAYER = "layer"
    BLOCK = "block"
