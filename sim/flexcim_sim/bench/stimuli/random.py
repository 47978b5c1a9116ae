"""Random data and programs for any configuration, with the corners of the number ranges in them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from flexcim.config.macro import MacroConfig
from flexcim.config.pattern import Pattern
from flexcim.macro.beats import MAX_SHIFT, MULT_BITS
from flexcim.macro.commands import RUN_FIELDS, Run
from flexcim_sim.bench.stimuli.macro import Image, RunItem, Stimulus, with_fields

__all__ = ["random_beats", "random_image", "random_mode", "random_program"]


def signed_values(rng: Generator, bits: int, shape: tuple[int, ...], kind: str = "") -> NDArray[np.int8]:
    """Values of ``bits`` bits: from all of the range, from its ends and zero, mostly zero, or all the same extreme.

    The kind is one of ``uniform``, ``ends``, ``sparse``, ``lowest`` and ``highest``; by default it is drawn.
    """
    low, high = -(1 << (bits - 1)), (1 << (bits - 1)) - 1
    kind = kind or rng.choice(["uniform", "ends", "sparse", "lowest", "highest"], p=[0.5, 0.2, 0.1, 0.1, 0.1])
    if kind == "ends":
        values = rng.choice([low, -1, 0, 1, high], shape)
    elif kind == "lowest":
        values = np.full(shape, low)
    elif kind == "highest":
        values = np.full(shape, high)
    else:
        values = rng.integers(low, high + 1, shape)
        if kind == "sparse":
            values *= rng.random(shape) < 0.1
    return values.astype(np.int8)


def random_beats(
    config: MacroConfig, rng: Generator, pattern: Pattern, groups: int, rows: int, vectors: int, kind: str = ""
) -> NDArray[np.int8]:
    """Activation beats [V, beats, P]; elements that the macro is to ignore are as random as the others.

    The kind is that of `signed_values`.
    """
    beats = config.vector_beats(config.window(pattern, groups), rows)
    return signed_values(rng, config.activation_bits, (vectors, beats, config.activation_port), kind)


def random_image(
    config: MacroConfig, rng: Generator, pattern: Pattern, rows: int, constants: int = 0, kind: str = ""
) -> Image:
    """A tile of a pattern, not canonical in general: offsets that are legal for the pattern, in any order.

    Full, under-full and empty blocks all occur, as weights may be zero.

    Parameters
    ----------
    config, rng : MacroConfig, Generator
        The macro, and where chance comes from.
    pattern, rows : Pattern, int
        The tile's pattern and slot rows.
    constants : int
        Outputs for which it has requantizer constants, if any.
    kind : str
        The kind of weights, as for `signed_values`.
    """
    shape = (rows, config.sub_macros, config.columns)
    offsets = rng.integers(0, pattern.max_offset + 1, shape)
    if rng.random() < 0.2:
        offsets[:] = rng.choice([0, pattern.max_offset])
    weights = signed_values(rng, config.weight_bits, shape, kind)
    return Image(weights, offsets.astype(np.uint8), random_constants(rng, constants) if constants else None)


def random_constants(rng: Generator, outputs: int) -> tuple[NDArray[np.uint16], NDArray[np.uint8]]:
    """Multipliers and shifts; the middle shifts, of which there are most, bring sums into the range of activations."""
    middle = rng.random(outputs) < 0.7
    shift = np.where(middle, rng.integers(20, 33, outputs), rng.integers(0, MAX_SHIFT + 1, outputs))
    shift[rng.random(outputs) < 0.1] = rng.choice([0, 1, MAX_SHIFT])
    mult = rng.integers(0, 1 << MULT_BITS, outputs)
    mult[rng.random(outputs) < 0.1] = rng.choice([0, 1, (1 << MULT_BITS) - 1])
    return mult.astype(np.uint16), shift.astype(np.uint8)


def random_mode(stimulus: Stimulus, rng: Generator, bank: int, pattern: Pattern, groups: int, vectors: int) -> None:
    """Add a load of all rows and a run of this mode, one K tile, that releases the bank."""
    config = stimulus.config
    requantize = config.requantizer and bool(rng.integers(2))
    constants = config.tile_outputs(groups) if requantize else 0
    stimulus.add_load(bank, random_image(config, rng, pattern, config.rows, constants))
    command = Run(bank=bank, pattern=pattern, groups=groups, rows=config.rows, vectors=vectors, requantize=requantize)
    stimulus.add_run(command, random_beats(config, rng, pattern, groups, config.rows, vectors))


@dataclass
class _Resident:
    """A bank's tile while a random program is made: its rows, its constants, and the run that used it last."""

    rows: int
    constants: int
    last_run: int


def random_program(config: MacroConfig, rng: Generator, layers: int, max_vectors: int) -> Stimulus:
    """Layers of one to three K tiles in random modes, on new tiles or on those that are still there.

    Parameters
    ----------
    config, rng : MacroConfig, Generator
        The macro, and where chance comes from.
    layers : int
        Accumulations from ``first_k`` to ``last_k``.
    max_vectors : int
        Most vectors of a run.
    """
    stimulus = Stimulus(config)
    banks: dict[int, _Resident] = {}
    for _ in range(layers):
        pattern, groups = config.modes[rng.integers(len(config.modes))]
        k_tiles = int(rng.choice([1, 1, 2, 3]))
        limit = max_vectors if k_tiles == 1 else min(max_vectors, config.accumulator_depth // groups)
        vectors = int(rng.integers(1, limit + 1))
        requantize = config.requantizer and bool(rng.integers(2))
        outputs = config.tile_outputs(groups)
        for k_tile in range(k_tiles):
            last_k = k_tile == k_tiles - 1
            constants = outputs if requantize and last_k else 0
            bank = int(rng.integers(config.banks))
            resident = banks.get(bank)
            if resident is None or resident.constants < constants or rng.random() < 0.6:
                if resident is not None:
                    _release(stimulus, resident)
                rows = config.rows if rng.random() < 0.5 else int(rng.integers(1, config.rows + 1))
                resident = banks[bank] = _Resident(rows, constants, 0)
                stimulus.add_load(bank, random_image(config, rng, pattern, rows, constants))
            rows = resident.rows if rng.random() < 0.7 else int(rng.integers(1, resident.rows + 1))
            resident.last_run = len(stimulus.runs)
            command = Run(
                bank=bank,
                pattern=pattern,
                groups=groups,
                rows=rows,
                vectors=vectors,
                first_k=k_tile == 0,
                last_k=last_k,
                requantize=constants > 0,
                release=False,
            )
            stimulus.add_run(command, random_beats(config, rng, pattern, groups, rows, vectors))
    return stimulus


def _release(stimulus: Stimulus, resident: _Resident) -> None:
    """Let the run that used a tile last release its bank."""
    item = stimulus.runs[resident.last_run]
    stimulus.runs[resident.last_run] = RunItem(with_fields(item.payload, RUN_FIELDS, release=1), item.beats)
