"""Programs with one error each: every kind that a program or its words can have."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Set
from dataclasses import dataclass, field

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from flexcim.accelerator.bus_words import run_image, run_words, tile_image, tile_words
from flexcim.accelerator.instructions import (
    INSTRUCTION_BITS,
    INSTRUCTION_FIELDS,
    AcceleratorError,
    LoadTile,
    Opcode,
    RunTiles,
)
from flexcim.config.accelerator import AcceleratorConfig
from flexcim_sim.bench.stimuli.accelerator import AcceleratorStimulus
from flexcim_sim.bench.stimuli.random import random_beats, random_image

__all__ = ["IllegalProgram", "illegal_programs", "rounds"]


@dataclass(frozen=True)
class IllegalProgram:
    """A program that must be refused.

    Parameters
    ----------
    kind : AcceleratorError
        What must be told.
    words : ndarray of uint32, [instructions, 4]
        The program memory's image.
    lasts : mapping of str to set of int
        Words of the input streams that carry ``tlast``.
    entry : int
        Where it is started.
    """

    kind: AcceleratorError
    words: NDArray[np.uint32]
    lasts: Mapping[str, Set[int]] = field(default_factory=dict)
    entry: int = 0


def rounds(config: AcceleratorConfig, rng: Generator, count: int) -> AcceleratorStimulus:
    """Rounds of a load for each macro and a run on all, each of one K tile, which leaves all banks free."""
    macro = config.macro
    stimulus = AcceleratorStimulus(config)
    for index in range(count):
        pattern, groups = macro.modes[rng.integers(len(macro.modes))]
        bank = index % macro.banks
        words = tile_words(config, macro.rows)
        for target in range(config.macros):
            image = random_image(macro, rng, pattern, macro.rows)
            stimulus.instructions.append(LoadTile(macro=target, bank=bank, rows=macro.rows, words=words))
            stimulus.tiles.append(tile_image(config, image.weights, image.offsets))
        beats = macro.vector_beats(macro.window(pattern, groups), macro.rows)
        run = RunTiles(
            macros=tuple(range(config.macros)),
            bank=bank,
            pattern=pattern,
            groups=groups,
            rows=macro.rows,
            vectors=3,
            beats=beats,
            words=run_words(config, 3, beats),
            end_packet=index == count - 1,
        )
        stimulus.instructions.append(run)
        stimulus.runs.append(run_image(config, random_beats(macro, rng, pattern, groups, macro.rows, 3)))
    return stimulus


def illegal_programs(stimulus: AcceleratorStimulus) -> Iterator[IllegalProgram]:
    """All that can be made wrong in the last round of `rounds`."""
    config = stimulus.config
    words = stimulus.program.words(config.macro)
    load, run, end = len(words) - 2 - config.macros, len(words) - 2, len(words) - 1
    changes: list[tuple[AcceleratorError, int, Opcode, Mapping[str, int]]] = [
        *((kind, load, Opcode.LOAD, fields) for kind, fields in _wrong_loads(stimulus)),
        *((kind, run, Opcode.RUN, fields) for kind, fields in _wrong_runs(stimulus)),
        (AcceleratorError.INSTRUCTION, end, Opcode.END, {"op": 4}),
        (AcceleratorError.INSTRUCTION, end, Opcode.END, {"op": 15}),
    ]
    for kind, place, op, fields in changes:
        yield IllegalProgram(kind, _changed(words, place, op, fields))
    for op, place, bit in ((Opcode.LOAD, load, 16), (Opcode.RUN, run, 94), (Opcode.END, end, 127)):
        yield IllegalProgram(AcceleratorError.INSTRUCTION, _changed(words, place, op, {}, flip=bit))
    yield from _wrong_banks(words, load, run)
    yield from _wrong_loops(words, run)
    yield IllegalProgram(AcceleratorError.PROGRAM_END, words, entry=config.program_depth)
    yield from _misplaced_lasts(stimulus, words)


def _wrong_loads(stimulus: AcceleratorStimulus) -> Iterator[tuple[AcceleratorError, Mapping[str, int]]]:
    config = stimulus.config
    words = tile_words(config, config.macro.rows)
    yield AcceleratorError.MACROS, {"macro": config.macros}
    yield AcceleratorError.MACROS, {"macro": 255}
    yield AcceleratorError.WORDS, {"words": 0}
    yield AcceleratorError.WORDS, {"words": words + 1}
    if words > 1:
        yield AcceleratorError.WORDS, {"words": words - 1}
    yield AcceleratorError.BANK, {"bank": config.macro.banks}
    yield AcceleratorError.MACRO, {"rows": 0}
    yield AcceleratorError.MACRO, {"rows": config.macro.rows + 1}


def _wrong_runs(stimulus: AcceleratorStimulus) -> Iterator[tuple[AcceleratorError, Mapping[str, int]]]:
    config, macro = stimulus.config, stimulus.config.macro
    run = stimulus.instructions[-1]
    assert isinstance(run, RunTiles)
    yield AcceleratorError.PACKET, {"end_packet": 0}
    yield AcceleratorError.MACROS, {"macros": 0}
    if config.macros < 16:
        yield AcceleratorError.MACROS, {"macros": 1 | 1 << config.macros}
    yield AcceleratorError.MEMORY, {"replay": 1, "store": 1}
    yield AcceleratorError.MEMORY, {"address": 1}
    yield AcceleratorError.MEMORY, {"store": 1, "address": config.activation_memory}
    if config.activation_memory:
        yield AcceleratorError.MEMORY, {"store": 1, "address": config.activation_memory - 1}
        yield AcceleratorError.WORDS, {"replay": 1}
    yield AcceleratorError.WORDS, {"words": 0}
    yield AcceleratorError.WORDS, {"words": run.words + 1}
    if run.words > 1:
        yield AcceleratorError.WORDS, {"words": run.words - 1}
    yield AcceleratorError.MACRO, {"beats": run.beats + 1, "words": run.words + 1}
    yield AcceleratorError.BANK, {"bank": macro.banks}
    yield AcceleratorError.MACRO, {"pattern": len(macro.patterns)}
    yield AcceleratorError.MACRO, {"groups": macro.sub_macros.bit_length()}
    yield AcceleratorError.MACRO, {"rows": 0}
    yield AcceleratorError.MACRO, {"vectors": 0}
    yield AcceleratorError.MACRO, {"first_k": 0}


def _wrong_banks(words: NDArray[np.uint32], load: int, run: int) -> Iterator[IllegalProgram]:
    """A second load of a bank that no run has released, and a run before the load of its bank."""
    for first, second in ((load, run), (run, load)):
        twice = words.copy()
        twice[second] = words[first]
        yield IllegalProgram(AcceleratorError.BANK, twice)


def _wrong_loops(words: NDArray[np.uint32], run: int) -> Iterator[IllegalProgram]:
    """A loop in the place of the last run: empty, never carried out, around a loop, around the end."""
    for length, count in ((0, 1), (1, 0)):
        loop = _changed(words, run, Opcode.LOOP, {"op": Opcode.LOOP, "length": length, "count": count}, clear=True)
        yield IllegalProgram(AcceleratorError.LOOP, loop)
    around = _changed(words, run, Opcode.LOOP, {"op": Opcode.LOOP, "length": 1, "count": 2}, clear=True)
    yield IllegalProgram(AcceleratorError.LOOP, around)
    nested = np.insert(around, run, around[run], axis=0)
    yield IllegalProgram(AcceleratorError.LOOP, nested)


def _misplaced_lasts(stimulus: AcceleratorStimulus, words: NDArray[np.uint32]) -> Iterator[IllegalProgram]:
    for kind, name, images in (
        (AcceleratorError.WEIGHTS_LAST, "weights", stimulus.tiles),
        (AcceleratorError.ACTIVATIONS_LAST, "activations", stimulus.runs),
    ):
        if len(images[-1]) > 1:
            first = sum(map(len, images[:-1]))
            yield IllegalProgram(kind, words, lasts={name: {first}})
            yield IllegalProgram(kind, words, lasts={name: {first + len(images[-1]) - 2}})


def _changed(
    words: NDArray[np.uint32],
    place: int,
    op: Opcode,
    fields: Mapping[str, int],
    *,
    flip: int | None = None,
    clear: bool = False,
) -> NDArray[np.uint32]:
    """A program with other fields in one instruction, or with a bit of it inverted."""
    changed = words.copy()
    word = 0 if clear else int.from_bytes(words[place].astype("<u4").tobytes(), "little")
    for name, value in fields.items():
        start, width = INSTRUCTION_FIELDS[op][name]
        word = word & ~(((1 << width) - 1) << start) | value << start
    if flip is not None:
        word ^= 1 << flip
    changed[place] = np.frombuffer(word.to_bytes(INSTRUCTION_BITS // 8, "little"), "<u4")
    return changed
