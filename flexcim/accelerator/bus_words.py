"""What goes over the accelerator's buses: tile images, run images and results as bus words (docs/architecture.md,
section 7.1)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from flexcim.config.accelerator import AcceleratorConfig
from flexcim.config.macro import ceil_div
from flexcim.macro.beats import weight_beats

__all__ = ["result_vectors", "run_image", "run_words", "tile_image", "tile_words"]


def tile_words(config: AcceleratorConfig, rows: int) -> int:
    """Words of a tile's image on the weight bus: ceil(R' * S * C * (W + index_bits) / weight_bus).

    Parameters
    ----------
    config : AcceleratorConfig
        The accelerator.
    rows : int
        R', slot rows of the tile.
    """
    return ceil_div(config.macro.weight_beats(rows) * config.weight_beat_bits, config.weight_bus)


def run_words(config: AcceleratorConfig, vectors: int, beats: int) -> int:
    """Words of a run's image on the activation bus: ceil(V * beats * P * A / activation_bus).

    Parameters
    ----------
    config : AcceleratorConfig
        The accelerator.
    vectors : int
        V, vectors of the run.
    beats : int
        Beats of each vector, `MacroConfig.vector_beats`.
    """
    return ceil_div(vectors * beats * config.activation_beat_bits, config.activation_bus)


def tile_image(config: AcceleratorConfig, weights: NDArray[np.int8], offsets: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """A tile's image on the weight bus.

    Parameters
    ----------
    config : AcceleratorConfig
        The accelerator.
    weights, offsets : int8 and uint8 [rows, S, C]
        The tile's cells, only the rows that its load names.

    Returns
    -------
    uint8 [words, weight_bus / 8]
        The words, each from its lowest byte.

    Raises
    ------
    ValueError
        If an array has the wrong shape, or a weight or an offset does not fit its bits.
    """
    macro = config.macro
    cells, numbers = weight_beats(macro, weights, offsets)
    _check_range("weight", cells, macro.weight_bits)
    if numbers.size and int(numbers.max()) >> macro.index_bits:
        raise ValueError(f"offset must fit {macro.index_bits} bits, not {numbers.max()}")
    fields = (cells.astype(np.int32) & ((1 << macro.weight_bits) - 1)) | (numbers.astype(np.int32) << macro.weight_bits)
    return _words(fields.reshape(-1), macro.cell_bits, config.weight_bus)


def run_image(config: AcceleratorConfig, beats: NDArray[np.int8]) -> NDArray[np.uint8]:
    """A run's image on the activation bus.

    Parameters
    ----------
    config : AcceleratorConfig
        The accelerator.
    beats : int8 [V, beats, P]
        The run's beats, as `flexcim.macro.beats.activation_beats` gives them.

    Returns
    -------
    uint8 [words, activation_bus / 8]
        The words, each from its lowest byte.

    Raises
    ------
    ValueError
        If the array has the wrong shape, or an element does not fit A bits.
    """
    bits = config.macro.activation_bits
    if beats.ndim != 3 or beats.shape[2] != config.macro.activation_port or beats.dtype != np.int8:
        raise ValueError(
            f"beats must be int8 [any, any, {config.macro.activation_port}], not {beats.dtype} {list(beats.shape)}"
        )
    _check_range("activation", beats, bits)
    fields = beats.reshape(-1).astype(np.int32) & ((1 << bits) - 1)
    return _words(fields, bits, config.activation_bus)


def result_vectors(
    config: AcceleratorConfig, data: NDArray[np.uint8], vectors: int, macros: int, groups: int
) -> NDArray[np.int32]:
    """Results of one run, from the bytes of the result stream.

    Parameters
    ----------
    config : AcceleratorConfig
        The accelerator.
    data : uint8 [bytes]
        The run's bytes: those that ``tkeep`` marks, in order.
    vectors, macros, groups : int
        The run's vectors, how many macros it has, and its G.

    Returns
    -------
    int32 [vectors, macros, G * C]
        The sums.

    Raises
    ------
    ValueError
        If the bytes are not those of such a run.
    """
    beats = config.macro.result_beats(groups)
    size = vectors * macros * beats * config.result_beat_bits // 8
    if data.dtype != np.uint8 or data.shape != (size,):
        raise ValueError(f"a run's results must be uint8 [{size}], not {data.dtype} {list(data.shape)}")
    elements = np.ascontiguousarray(data).view("<i4").reshape(vectors, macros, -1)
    return elements[:, :, : config.macro.tile_outputs(groups)].astype(np.int32)


def _check_range(name: str, values: NDArray[np.int8], bits: int) -> None:
    limit = 1 << (bits - 1)
    wrong = (values < -limit) | (values >= limit)
    if wrong.any():
        raise ValueError(f"{name} must fit {bits} bits, {-limit} to {limit - 1}, not {values[wrong][0]}")


def _words(fields: NDArray[np.int32], bits: int, bus: int) -> NDArray[np.uint8]:
    """Words of a bus from fields of ``bits`` bits each, packed without gaps; the last word is padded with 0."""
    octets = fields.astype("<u4").reshape(-1, 1).view(np.uint8)
    stream = np.unpackbits(octets, axis=1, count=bits, bitorder="little").reshape(-1)
    packed = np.packbits(stream, bitorder="little")
    words = np.zeros((ceil_div(len(stream), bus), bus // 8), np.uint8)
    words.reshape(-1)[: len(packed)] = packed
    return words
