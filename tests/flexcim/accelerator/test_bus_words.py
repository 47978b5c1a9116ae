"""Images on the buses: their bits are those of the macro's beats, one after the other."""

from __future__ import annotations

import numpy as np
import pytest

from flexcim.accelerator.bus_words import result_vectors, run_image, run_words, tile_image, tile_words
from flexcim.config.accelerator import AcceleratorConfig
from flexcim.macro.beats import (
    activation_payload_bits,
    activation_payloads,
    weight_beats,
    weight_payload_bits,
    weight_payloads,
)
from tests.support.accelerators import ACCELERATORS

for_each_accelerator = pytest.mark.parametrize("config", ACCELERATORS.values(), ids=ACCELERATORS)


def whole(payloads, bits):
    """Payloads without `last`, as one number."""
    return sum((payload & ((1 << bits) - 1)) << bits * index for index, payload in enumerate(payloads))


def random_cells(config, rng, rows):
    shape = rows, config.macro.sub_macros, config.macro.columns
    limit = 1 << (config.macro.weight_bits - 1)
    weights = rng.integers(-limit, limit, shape).astype(np.int8)
    return weights, rng.integers(0, 1 << config.macro.index_bits, shape).astype(np.uint8)


@for_each_accelerator
def test_a_tile_image_is_its_beats(config):
    rng = np.random.default_rng(61)
    for rows in range(1, config.macro.rows + 1):
        weights, offsets = random_cells(config, rng, rows)
        image = tile_image(config, weights, offsets)
        assert image.shape == (tile_words(config, rows), config.weight_bus // 8)
        payloads = weight_payloads(config.macro, *weight_beats(config.macro, weights, offsets))
        expected = whole(payloads, weight_payload_bits(config.macro) - 1)
        assert int.from_bytes(image.tobytes(), "little") == expected


@for_each_accelerator
def test_a_run_image_is_its_beats(config):
    rng = np.random.default_rng(62)
    limit = 1 << (config.macro.activation_bits - 1)
    for vectors, beats in ((1, 1), (3, 2), (2, 5)):
        elements = rng.integers(-limit, limit, (vectors, beats, config.macro.activation_port)).astype(np.int8)
        image = run_image(config, elements)
        assert image.shape == (run_words(config, vectors, beats), config.activation_bus // 8)
        expected = whole(activation_payloads(config.macro, elements), activation_payload_bits(config.macro) - 1)
        assert int.from_bytes(image.tobytes(), "little") == expected


def test_results_come_back_without_what_fills_their_beats():
    config = ACCELERATORS["four macros, wide buses"]
    beats = config.macro.result_beats(2)
    assert beats * config.macro.result_port > config.macro.tile_outputs(2)
    sums = np.arange(3 * 4 * beats * config.macro.result_port, dtype="<i4").reshape(3, 4, -1) - 20
    results = result_vectors(config, sums.view(np.uint8).reshape(-1), 3, 4, 2)
    assert (results == sums[:, :, : config.macro.tile_outputs(2)]).all()
    with pytest.raises(ValueError, match=r"a run's results must be uint8 \[\d+\], not uint8 \[3\]"):
        result_vectors(config, np.zeros(3, np.uint8), 3, 4, 2)


def test_what_does_not_fit_is_told():
    config = ACCELERATORS["one bank, parallel"]  # 5-bit weights, 2-bit offsets, 6-bit activations
    weights, offsets = random_cells(config, np.random.default_rng(63), 2)
    with pytest.raises(ValueError, match="weight must fit 5 bits, -16 to 15, not 16"):
        tile_image(config, np.full_like(weights, 16), offsets)
    with pytest.raises(ValueError, match="offset must fit 2 bits, not 4"):
        tile_image(config, weights, np.full_like(offsets, 4))
    with pytest.raises(ValueError, match="activation must fit 6 bits, -32 to 31, not -33"):
        run_image(config, np.full((1, 1, config.macro.activation_port), -33, np.int8))
    with pytest.raises(ValueError, match=r"beats must be int8 \[any, any, 7\], not int8 \[1, 7\]"):
        run_image(config, np.zeros((1, 7), np.int8))


def test_the_bytes_of_a_tile_of_the_default_instance():
    """128 cells of 11 bits to a row."""
    assert tile_words(AcceleratorConfig(weight_bus=32), 32) * 4 == 32 * 128 * 11 // 8
