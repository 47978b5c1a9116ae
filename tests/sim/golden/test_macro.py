"""The golden macro: exact results on any packed image, the order of commands, and what it refuses."""

from __future__ import annotations

import itertools
import time
from typing import Any

import numpy as np
import pytest
from numpy.random import Generator
from numpy.typing import NDArray

from flexcim.config.macro import PRESETS, MacroConfig
from flexcim.config.pattern import Pattern
from flexcim.errors import FlexCiMError
from flexcim.macro.commands import LOAD_FIELDS, RUN_FIELDS, ErrorKind, Load, Run
from flexcim.packed.cells import pack_layer, unpack_layer
from flexcim.packed.slots import decode_slots
from flexcim.packed.tiling import tile_layer
from flexcim_sim.golden.layer import layer_outputs
from flexcim_sim.golden.macro import GoldenMacro, command_fields
from tests.support.sparse_weights import random_weights

SMALL = MacroConfig(rows=4, columns=3, result_port=4, accumulator_depth=8)
DENSE, HALF = Pattern(1, 1), Pattern(4, 8)


@pytest.fixture
def rng() -> Generator:
    return np.random.default_rng(5)


def exact(weights, activations):
    return (activations.astype(np.int64) @ weights.T.astype(np.int64)).astype(np.int32)


def random_activations(rng, vectors, inputs, bits=8):
    values = rng.integers(-(1 << (bits - 1)), 1 << (bits - 1), (vectors, inputs)).astype(np.int8)
    values[0], values[1] = -(1 << (bits - 1)), (1 << (bits - 1)) - 1
    return values


# --- Results ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PRESETS)
def test_every_mode_of_a_preset_is_exact(name, rng):
    """Full size, one output and a few inputs more than two tiles hold."""
    config = PRESETS[name]
    for pattern, groups in config.modes:
        outputs = config.tile_outputs(groups) + 1
        inputs = config.tile_inputs(pattern, groups) + pattern.m + 1
        tiling = tile_layer(config, outputs, inputs, pattern, groups=groups)
        weights, offsets = pack_layer(tiling, random_weights(rng, outputs, inputs, pattern))
        activations = random_activations(rng, 3, inputs)
        expected = exact(unpack_layer(tiling, weights, offsets), activations)
        assert (layer_outputs(tiling, weights, offsets, activations) == expected).all(), f"{pattern} at {groups}"


@pytest.mark.parametrize(("bits_per_cycle", "lanes"), list(itertools.product([1, 2, 4, 8], [1, 2, 3, 8])))
def test_lanes_and_bits_do_not_change_results(bits_per_cycle, lanes, rng):
    config = MacroConfig.from_mapping({"bits_per_cycle": bits_per_cycle, "lanes": lanes}, base=SMALL)
    for pattern, groups in config.modes:
        tiling = tile_layer(config, 7, 50, pattern, groups=groups)
        weights, offsets = pack_layer(tiling, random_weights(rng, 7, 50, pattern))
        activations = random_activations(rng, 9, 50)
        expected = exact(unpack_layer(tiling, weights, offsets), activations)
        assert (layer_outputs(tiling, weights, offsets, activations) == expected).all()


@pytest.mark.parametrize(("weight_bits", "activation_bits"), [(2, 2), (3, 8), (8, 4)])
def test_narrow_numbers_are_exact(weight_bits, activation_bits, rng):
    config = MacroConfig.from_mapping({"weight_bits": weight_bits, "activation_bits": activation_bits}, base=SMALL)
    tiling = tile_layer(config, 5, 70, HALF)
    weights = random_weights(rng, 5, 70, HALF, bits=weight_bits)
    activations = random_activations(rng, 4, 70, activation_bits)
    assert (layer_outputs(tiling, *pack_layer(tiling, weights), activations) == exact(weights, activations)).all()


def test_offsets_that_no_encoder_writes_are_carried_out(rng):
    """Any legal offset, in any order; slots that name the same position add up."""
    for pattern in (Pattern(4, 8), Pattern(2, 8), Pattern(4, 11)):
        tiling = tile_layer(SMALL, 3, 4 * pattern.m, pattern, groups=1)
        values = rng.integers(-30, 31, (3, 4, pattern.n)).astype(np.int8)
        offsets = rng.integers(0, pattern.max_offset + 1, values.shape).astype(np.uint8)
        weights = decode_slots(values, offsets, pattern, 4 * pattern.m)
        # One output per column; slot k of block b lies in row (b n + k) div 4, sub-macro (b n + k) mod 4.
        shape = (1, -1, 4, 3)
        cells = [np.moveaxis(slots.reshape(3, -1), 0, 1).reshape(shape) for slots in (values, offsets)]
        missing = 4 - cells[0].shape[1]
        image, offset_image = (np.pad(part, ((0, 0), (0, missing), (0, 0), (0, 0))) for part in cells)
        activations = random_activations(rng, 5, 4 * pattern.m)
        assert (layer_outputs(tiling, image, offset_image, activations) == exact(weights, activations)).all()


def test_an_offset_past_the_pattern_contributes_nothing(rng):
    config = MacroConfig.from_mapping({"lanes": 2}, base=SMALL)
    beats = rng.integers(-128, 128, (1, 1, 64)).astype(np.int8)
    for offset in range(3, 8):
        macro = GoldenMacro(config)
        macro.load(Load(bank=0, rows=1).payload(), np.ones((1, 4, 3), np.int8), np.full((1, 4, 3), offset, np.uint8))
        results = macro.run(Run(bank=0, pattern=Pattern(2, 4), groups=1, rows=1, vectors=1).payload(config), beats)
        assert results is not None
        assert not results.any()


def test_a_tile_of_the_default_macro_is_quick(rng):
    config = PRESETS["flexcim"]
    weights = rng.integers(-128, 128, (32, 4, 32)).astype(np.int8)
    offsets = rng.integers(0, 5, (32, 4, 32)).astype(np.uint8)
    beats = rng.integers(-128, 128, (64, 4, 64)).astype(np.int8)
    run = Run(bank=0, pattern=HALF, groups=1, rows=32, vectors=64).payload(config)
    begun = time.process_time()
    macro = GoldenMacro(config)
    macro.load(Load(bank=0, rows=32).payload(), weights, offsets)
    macro.run(run, beats)
    assert time.process_time() - begun < 0.2


# --- Commands --------------------------------------------------------------------------------------------------------


def ones(rows: int = 4) -> tuple[NDArray[np.int8], NDArray[np.uint8]]:
    """A tile of ones: each result is the sum of what its cells see."""
    return np.ones((rows, 4, 3), np.int8), np.zeros((rows, 4, 3), np.uint8)


def beats_of(values):
    """Vectors of one dense window of 4 inputs each, all with the same value."""
    return np.repeat(np.array(values, np.int8)[:, None, None], 64, axis=2)


def dense_run(config=SMALL, **changes):
    command: dict[str, Any] = {"bank": 0, "pattern": DENSE, "groups": 1, "rows": 1, "vectors": 1} | changes
    return Run(**command).payload(config)


def test_command_fields_read_what_the_payload_holds():
    run = Run(bank=1, pattern=HALF, groups=1, rows=3, vectors=700, first_k=False, requantize=True)
    assert command_fields(run.payload(SMALL), RUN_FIELDS) == {
        "bank": 1,
        "pattern": SMALL.patterns.index(HALF),
        "groups": 0,
        "rows": 3,
        "vectors": 700,
        "first_k": 0,
        "last_k": 1,
        "requantize": 1,
        "release": 1,
    }
    assert command_fields(Load(bank=2, rows=9).payload(), LOAD_FIELDS) == {"bank": 2, "rows": 9, "constants": 0}


def test_a_bank_keeps_its_tile_until_it_is_released():
    macro = GoldenMacro(SMALL)
    weights, offsets = ones()
    macro.load(Load(bank=0, rows=4).payload(), weights, offsets)
    macro.load(Load(bank=0, rows=4).payload(), 2 * weights, offsets)
    stay, release = dense_run(release=False), dense_run()
    found = [macro.run(command, beats_of([5])) for command in (stay, release, release)]
    assert [results.tolist() for results in found if results is not None] == [[[20] * 3], [[20] * 3], [[40] * 3]]
    with pytest.raises(FlexCiMError, match="a run waits for bank 0, but no load for it follows"):
        macro.run(release, beats_of([5]))


def test_k_tiles_add_up_and_only_the_last_emits():
    macro = GoldenMacro(SMALL)
    for bank in range(2):
        macro.load(Load(bank=bank, rows=4).payload(), *ones())
    for k_tile, value in enumerate([1, 10, 100]):
        command = dense_run(bank=k_tile % 2, vectors=2, first_k=k_tile == 0, last_k=k_tile == 2, release=False)
        results = macro.run(command, beats_of([value, -value]))
        assert (results is None) == (k_tile < 2)
    assert results is not None
    assert results.tolist() == [[444] * 3, [-444] * 3]


def test_constants_belong_to_the_bank():
    config = MacroConfig.from_mapping({"requantizer": True}, base=SMALL)
    macro = GoldenMacro(config)
    for bank in range(2):
        constants = np.full(3, bank + 1, np.uint16), np.full(3, 1, np.uint8)
        macro.load(Load(bank=bank, rows=1, constants=True).payload(), *ones(1), constants)
    plain = dense_run(config, bank=0, release=False)
    scaled = [dense_run(config, bank=bank, requantize=True) for bank in range(2)]
    found = [macro.run(command, beats_of([7])) for command in (plain, *scaled)]
    assert [int(results[0, 0]) for results in found if results is not None] == [28, 14, 28]


# --- Refusals --------------------------------------------------------------------------------------------------------

ILLEGAL_LOADS = [
    (Load(bank=2, rows=1), ErrorKind.LOAD_BANK),
    (Load(bank=2, rows=0), ErrorKind.LOAD_BANK),
    (Load(bank=0, rows=0), ErrorKind.LOAD_ROWS),
    (Load(bank=0, rows=5), ErrorKind.LOAD_ROWS),
    (Load(bank=0, rows=1, constants=True), ErrorKind.LOAD_CONSTANTS),
]


@pytest.mark.parametrize(("command", "kind"), ILLEGAL_LOADS)
def test_illegal_loads(command, kind):
    macro = GoldenMacro(SMALL)
    macro.load(command.payload(), *ones(1))
    assert macro.error is kind
    macro.load(Load(bank=0, rows=1).payload(), *ones(1))
    assert macro.run(dense_run(), beats_of([1])) is None, "nothing is carried out after an error"


PATTERN_BIT = 4  # of the run command's payload

ILLEGAL_RUNS = [
    (dense_run(bank=2), ErrorKind.RUN_BANK),
    (dense_run() | len(SMALL.patterns) << PATTERN_BIT, ErrorKind.RUN_PATTERN),
    (dense_run(groups=8), ErrorKind.RUN_GROUPS),
    (dense_run(pattern=HALF, groups=2), ErrorKind.RUN_GROUPS),
    (dense_run(rows=0), ErrorKind.RUN_ROWS),
    (dense_run(rows=5), ErrorKind.RUN_ROWS),
    (dense_run(rows=3), ErrorKind.RUN_ROWS),
    (dense_run(vectors=0), ErrorKind.RUN_VECTORS),
    (dense_run(vectors=9, last_k=False), ErrorKind.RUN_VECTORS),
    (dense_run(vectors=5, groups=2, last_k=False), ErrorKind.RUN_VECTORS),
    (dense_run(first_k=False), ErrorKind.RUN_ORDER),
    (dense_run(requantize=True), ErrorKind.RUN_REQUANTIZE),
    (dense_run(bank=3, rows=0, vectors=0), ErrorKind.RUN_BANK),
]


@pytest.mark.parametrize(("payload", "kind"), ILLEGAL_RUNS)
def test_illegal_runs(payload, kind):
    macro = GoldenMacro(SMALL)
    macro.load(Load(bank=0, rows=2).payload(), *ones(2))
    assert macro.run(payload, beats_of([1])) is None
    assert macro.error is kind


@pytest.mark.parametrize(
    "changes", [{"first_k": True}, {"vectors": 1}, {"groups": 2}, {"first_k": True, "last_k": True}], ids=str
)
def test_a_k_tile_must_fit_the_first(changes):
    macro = GoldenMacro(SMALL)
    macro.load(Load(bank=0, rows=1).payload(), *ones(1))
    macro.run(dense_run(vectors=2, last_k=False, release=False), beats_of([1, 2]))
    assert not macro.error
    second = {"vectors": 2, "first_k": False, "last_k": False} | changes
    macro.run(dense_run(**second), beats_of([1, 2]))
    assert macro.error is ErrorKind.RUN_ORDER


@pytest.mark.parametrize("wrong", [{"last_k": False}, {"bank": 1}], ids=str)
def test_requantizing_needs_the_last_k_tile_and_constants(wrong):
    config = MacroConfig.from_mapping({"requantizer": True}, base=SMALL)
    macro = GoldenMacro(config)
    constants = np.ones(3, np.uint16), np.ones(3, np.uint8)
    macro.load(Load(bank=0, rows=1, constants=True).payload(), *ones(1), constants)
    macro.load(Load(bank=1, rows=1).payload(), *ones(1))
    macro.run(dense_run(config, requantize=True, **wrong), beats_of([1]))
    assert macro.error is ErrorKind.RUN_REQUANTIZE


def test_too_few_constants_are_refused():
    config = MacroConfig.from_mapping({"requantizer": True}, base=SMALL)
    macro = GoldenMacro(config)
    constants = np.ones(3, np.uint16), np.ones(3, np.uint8)
    macro.load(Load(bank=0, rows=1, constants=True).payload(), *ones(1), constants)
    with pytest.raises(FlexCiMError, match="a run of 12 outputs cannot be requantized with 3 constants"):
        macro.run(dense_run(config, requantize=True, groups=4), beats_of([1]))


def test_data_that_do_not_fit_their_command_are_refused():
    macro = GoldenMacro(SMALL)
    weights, offsets = ones()
    with pytest.raises(ValueError, match=r"weights and offsets must have the shape \(2, 4, 3\), not \(4, 4, 3\)"):
        macro.load(Load(bank=0, rows=2).payload(), weights, offsets)
    with pytest.raises(ValueError, match="offset 8 does not fit index_bits = 3"):
        macro.load(Load(bank=0, rows=4).payload(), weights, offsets + 8)
    constants = np.ones(3, np.uint16), np.ones(3, np.uint8)
    with pytest.raises(ValueError, match="constants must be given with a load that says so"):
        macro.load(Load(bank=0, rows=4).payload(), weights, offsets, constants)
    macro.load(Load(bank=0, rows=4).payload(), weights, offsets)
    with pytest.raises(ValueError, match="a run of 1 vectors got the beats of 2"):
        macro.run(dense_run(), beats_of([1, 2]))
