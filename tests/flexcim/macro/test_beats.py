"""Beats and payloads against docs/architecture.md, section 3.1, element by element and bit by bit."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest

from flexcim.config.errors import ConfigError
from flexcim.config.macro import PRESETS, MacroConfig
from flexcim.config.pattern import Pattern
from flexcim.macro.beats import (
    activation_beats,
    activation_payload_bits,
    activation_payloads,
    constant_beats,
    constant_payload_bits,
    constant_payloads,
    result_elements,
    result_payload_bits,
    weight_beats,
    weight_payload_bits,
    weight_payloads,
)
from flexcim.packed.cells import tile_activations
from flexcim.packed.tiling import LayerTiling

CONFIGS = {
    **PRESETS,
    "odd rows": MacroConfig(rows=6, columns=4, activation_port=20, result_port=3),
    "narrow": MacroConfig(
        rows=5, columns=4, weight_port=2, weight_bits=5, activation_bits=3, activation_port=7, result_port=5
    ),
    "wide weights": MacroConfig(columns=8, weight_port=16, weight_bits=2, activation_bits=6),
}
for_each_config = pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)


def signed(rng, shape, bits=8):
    return rng.integers(-(1 << (bits - 1)), 1 << (bits - 1), size=shape, dtype=np.int8)


def fields(payload, widths):
    """Fields of a payload from bit 0 up; nothing may be above them."""
    values = []
    for width in widths:
        values.append(payload & ((1 << width) - 1))
        payload >>= width
    assert payload == 0
    return values


# --- Order -----------------------------------------------------------------------------------------------------------


def reference_beats(config, window, rows, vector):
    """One vector's beats, window by window."""
    P = config.activation_port
    windows = [vector[row * window : (row + 1) * window].tolist() for row in range(rows)]
    fitting = [f for f in range(1, config.rows + 1) if config.rows % f == 0 and f * window <= P]
    if fitting:
        f = max(fitting)
        beats = [[value for values in windows[row : row + f] for value in values] for row in range(0, rows, f)]
    else:
        beats = [values[start : start + P] for values in windows for start in range(0, window, P)]
    return [beat + [0] * (P - len(beat)) for beat in beats]


@for_each_config
def test_activation_beats(config):
    rng = np.random.default_rng(0)
    for pattern, groups in config.modes:
        window = config.window(pattern, groups)
        for rows in {1, config.rows // 2 + 1, config.rows - 1 or 1, config.rows}:
            vectors = signed(rng, (3, rows * window))
            beats = activation_beats(config, pattern, groups, rows, vectors)
            assert beats.dtype == np.int8
            assert beats.shape == (3, config.vector_beats(window, rows), config.activation_port)
            assert beats.tolist() == [reference_beats(config, window, rows, vector) for vector in vectors]


def test_a_window_wider_than_the_port_starts_on_a_beat_of_its_own():
    config = MacroConfig(rows=4, activation_port=6)
    beats = activation_beats(config, Pattern(4, 8), 1, 2, np.arange(1, 17, dtype=np.int8)[np.newaxis])
    assert beats[0].tolist() == [
        [1, 2, 3, 4, 5, 6],
        [7, 8, 0, 0, 0, 0],
        [9, 10, 11, 12, 13, 14],
        [15, 16, 0, 0, 0, 0],
    ]


def test_windows_of_one_beat_lie_from_element_0_on():
    # Three windows of 4 would fit 14 elements, but 3 does not divide 4 rows.
    config = MacroConfig(rows=4, activation_port=14)
    beats = activation_beats(config, Pattern(1, 1), 1, 3, np.arange(1, 13, dtype=np.int8)[np.newaxis])
    assert beats[0].tolist() == [[1, 2, 3, 4, 5, 6, 7, 8, *[0] * 6], [9, 10, 11, 12, *[0] * 10]]


def test_activations_of_the_wrong_kind_are_refused():
    config = MacroConfig()
    good: Any = np.zeros((2, 24), np.int8)
    assert activation_beats(config, Pattern(4, 8), 1, 3, good).shape == (2, 1, 64)
    for bad in (good[:, 1:], good[0], good.astype(np.int16)):
        message = f"vectors must be int8 [any, 24], not {bad.dtype} {list(bad.shape)}"
        with pytest.raises(ValueError, match=re.escape(message)):
            activation_beats(config, Pattern(4, 8), 1, 3, bad)
    with pytest.raises(ConfigError, match=r"pattern 4:8 is legal at groups 1 .* not 2"):
        activation_beats(config, Pattern(4, 8), 2, 3, good)


def test_a_tile_sees_its_inputs_and_zeros_past_the_edge():
    config = MacroConfig(rows=2)
    tiling = LayerTiling(config, 1, 41, Pattern(4, 8), 1, "a test")
    activations = signed(np.random.default_rng(1), (3, 41))
    padded = np.pad(activations, ((0, 0), (0, 7)))
    seen = [tile_activations(tiling, tile, activations) for tile in tiling.tiles]
    assert [part.shape[1] for part in seen] == [16, 16, 16]
    np.testing.assert_array_equal(np.hstack(seen), padded)
    with pytest.raises(ValueError, match=re.escape("activations must be int8 [any, 41], not int8 [3, 40]")):
        tile_activations(tiling, tiling.tiles[0], activations[:, 1:])


@for_each_config
def test_weight_beats(config):
    rng = np.random.default_rng(2)
    shape = (3, config.sub_macros, config.columns)
    weights, offsets = signed(rng, shape), rng.integers(0, 8, size=shape, dtype=np.uint8)
    beats = weight_beats(config, weights, offsets)
    for array, cells in zip(beats, (weights, offsets), strict=True):
        assert array.shape == (config.weight_beats(3), config.weight_port)
        in_order = [
            cells[row, sub_macro, column]
            for row in range(3)
            for sub_macro in range(config.sub_macros)
            for column in range(config.columns)
        ]
        assert array.ravel().tolist() == in_order


def test_at_its_default_the_weight_port_takes_a_sub_macros_row():
    config = MacroConfig()
    weights = signed(np.random.default_rng(3), (3, 4, 32))
    beats, _ = weight_beats(config, weights, np.zeros((3, 4, 32), np.uint8))
    for index, beat in enumerate(beats):
        np.testing.assert_array_equal(beat, weights[index // 4, index % 4])


@pytest.mark.parametrize("name", ["weights", "offsets"])
def test_cells_of_the_wrong_kind_are_refused(name):
    cells: dict[str, Any] = {"weights": np.zeros((3, 4, 32), np.int8), "offsets": np.zeros((3, 4, 32), np.uint8)}
    for bad in (cells[name][:, :2], cells[name].astype(int)):
        with pytest.raises(ValueError, match=rf"{name} must be u?int8 \[3, 4, 32\], not {bad.dtype}"):
            weight_beats(MacroConfig(), **{**cells, name: bad})


@pytest.mark.parametrize(("outputs", "beats"), [(1, 1), (3, 1), (4, 2), (8, 3)])
def test_constant_beats(outputs, beats):
    config = MacroConfig(result_port=3, requantizer=True)
    mult, shift = np.arange(1, outputs + 1, dtype=np.uint16), np.arange(10, outputs + 10, dtype=np.uint8)
    pairs: Any = zip(constant_beats(config, mult, shift), (mult, shift), strict=True)
    for array, values in pairs:
        assert array.shape == (beats, 3)
        assert array.dtype == values.dtype
        assert array.ravel().tolist() == values.tolist() + [0] * (beats * 3 - outputs)


def test_constants_of_the_wrong_kind_are_refused():
    good = np.zeros(4, np.uint16), np.zeros(4, np.uint8)
    with pytest.raises(ValueError, match=r"mult must be uint16 \[any\], not int64 \[4\]"):
        constant_beats(MacroConfig(), good[0].astype(np.int64), good[1])
    with pytest.raises(ValueError, match=r"shift must be uint8 \[4\], not uint8 \[3\]"):
        constant_beats(MacroConfig(), good[0], good[1][1:])
    with pytest.raises(ValueError, match="shift must be at most 47, not 48"):
        constant_beats(MacroConfig(), good[0], good[1] + np.uint8(48))


# --- Packing ---------------------------------------------------------------------------------------------------------


def test_the_widths_of_the_default_payloads():
    config = MacroConfig()
    assert activation_payload_bits(config) == 64 * 8 + 1
    assert weight_payload_bits(config) == 32 * (8 + 3) + 1
    assert constant_payload_bits(config) == 16 * (16 + 6) + 1
    assert result_payload_bits(config) == 16 * 32 + 1


@for_each_config
def test_activation_payloads(config):
    bits, port = config.activation_bits, config.activation_port
    beats = signed(np.random.default_rng(4), (3, 2, port), bits)
    beats[0, 0, :2] = -(1 << (bits - 1)), (1 << (bits - 1)) - 1
    payloads = activation_payloads(config, beats)
    assert len(payloads) == 6
    for index, payload in enumerate(payloads):
        assert payload.bit_length() <= activation_payload_bits(config)
        *elements, last = fields(payload, [bits] * port + [1])
        assert elements == [element % (1 << bits) for element in beats[index // 2, index % 2].tolist()]
        assert last == index % 2


@for_each_config
def test_weight_payloads(config):
    rng = np.random.default_rng(5)
    port, bits, index_bits = config.weight_port, config.weight_bits, config.index_bits
    weights = signed(rng, (3, port), bits)
    offsets = rng.integers(0, 1 << index_bits, size=(3, port), dtype=np.uint8)
    payloads = weight_payloads(config, weights, offsets)
    for beat, payload in enumerate(payloads):
        assert payload.bit_length() <= weight_payload_bits(config)
        *cells, last = fields(payload, [bits, index_bits] * port + [1])
        assert cells[::2] == [weight % (1 << bits) for weight in weights[beat].tolist()]
        assert cells[1::2] == offsets[beat].tolist()
        assert last == (beat == 2)


@for_each_config
def test_constant_payloads(config):
    rng = np.random.default_rng(6)
    mult = rng.integers(0, 1 << 16, size=(2, config.result_port), dtype=np.uint16)
    shift = rng.integers(0, 1 << 6, size=mult.shape, dtype=np.uint8)
    mult[0, 0], shift[0, 0] = 0xFFFF, 63
    payloads = constant_payloads(config, mult, shift)
    for beat, payload in enumerate(payloads):
        assert payload.bit_length() <= constant_payload_bits(config)
        *pairs, last = fields(payload, [16, 6] * config.result_port + [1])
        assert pairs[::2] == mult[beat].tolist()
        assert pairs[1::2] == shift[beat].tolist()
        assert last == (beat == 1)


def test_no_beats_make_no_payloads():
    config = MacroConfig()
    assert activation_payloads(config, activation_beats(config, Pattern(4, 8), 1, 3, np.zeros((0, 24), np.int8))) == []
    assert weight_payloads(config, np.zeros((0, 32), np.int8), np.zeros((0, 32), np.uint8)) == []


@for_each_config
def test_results_are_read_back(config):
    rng = np.random.default_rng(7)
    expected = rng.integers(-(1 << 31), 1 << 31, size=(4, config.result_port), dtype=np.int32)
    expected[0, 0], expected[1, -1] = -(1 << 31), (1 << 31) - 1
    flags = [False, True, True, False]
    payloads = [
        sum((value % (1 << 32)) << (32 * index) for index, value in enumerate(values))
        | last << (result_payload_bits(config) - 1)
        for values, last in zip(expected.tolist(), flags, strict=True)
    ]
    elements, last = result_elements(config, payloads)
    assert elements.dtype == np.int32
    np.testing.assert_array_equal(elements, expected)
    assert last.dtype == np.bool_
    assert last.tolist() == flags


def test_no_payloads_make_no_results():
    elements, last = result_elements(MacroConfig(), [])
    assert elements.shape == (0, 16)
    assert last.shape == (0,)


@pytest.mark.parametrize("payload", [-1, 1 << 513, 1 << 600])
def test_a_payload_that_is_no_result_is_refused(payload):
    assert result_elements(MacroConfig(), [(1 << 513) - 1])[1].tolist() == [True]
    with pytest.raises(OverflowError):
        result_elements(MacroConfig(), [payload])


@pytest.mark.parametrize("element", [-5, 4])
def test_an_activation_that_does_not_fit_is_refused(element):
    config = CONFIGS["narrow"]
    beats = np.zeros((1, 1, 7), np.int8)
    beats[0, 0, 3] = element
    with pytest.raises(ValueError, match=f"an element must fit 3 bits, -4 to 3, not {element}"):
        activation_payloads(config, beats)


def test_a_cell_that_does_not_fit_is_refused():
    config = CONFIGS["narrow"]
    zeros = np.zeros((1, 2), np.int8)
    with pytest.raises(ValueError, match="an element must fit 5 bits, -16 to 15, not 16"):
        weight_payloads(config, zeros + np.int8(16), zeros.astype(np.uint8))
    with pytest.raises(ValueError, match="offset must fit 3 bits, 0 to 7, not 8"):
        weight_payloads(config, zeros, zeros.astype(np.uint8) + np.uint8(8))
    with pytest.raises(ValueError, match="shift must fit 6 bits, 0 to 63, not 64"):
        constant_payloads(config, np.zeros((1, 5), np.uint16), np.full((1, 5), 64, np.uint8))


def test_beats_of_the_wrong_shape_are_refused():
    config = MacroConfig()
    with pytest.raises(ValueError, match=r"beats must be int8 \[any, any, 64\], not int8 \[2, 64\]"):
        activation_payloads(config, np.zeros((2, 64), np.int8))
    with pytest.raises(ValueError, match=r"weights must be int8 \[any, 32\], not int8 \[2, 31\]"):
        weight_payloads(config, np.zeros((2, 31), np.int8), np.zeros((2, 31), np.uint8))
    with pytest.raises(ValueError, match=r"offsets must be uint8 \[2, 32\], not uint8 \[1, 32\]"):
        weight_payloads(config, np.zeros((2, 32), np.int8), np.zeros((1, 32), np.uint8))
    with pytest.raises(ValueError, match=r"mult must be uint16 \[any, 16\], not uint16 \[2, 15\]"):
        constant_payloads(config, np.zeros((2, 15), np.uint16), np.zeros((2, 15), np.uint8))
