"""Stimuli with one error each: every kind of illegal command and misplaced ``last`` that a configuration can have."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from numpy.random import Generator

from flexcim.config.macro import MacroConfig
from flexcim.macro.commands import LOAD_FIELDS, MAX_VECTORS, RUN_FIELDS
from flexcim_sim.bench.stimuli.macro import Stimulus, with_fields
from flexcim_sim.bench.stimuli.random import random_constants, random_mode

__all__ = ["errors_at_once", "illegal_stimuli"]


def illegal_stimuli(config: MacroConfig, rng: Generator) -> Iterator[Stimulus]:
    """Each has a legal load and run, then what is wrong, then legal ones again that must not be carried out."""
    for stimulus in (
        *_illegal_loads(config, rng),
        *_illegal_runs(config, rng),
        *_illegal_orders(config, rng),
        *_misplaced_lasts(config, rng),
        *(_illegal_constants(config, rng) if config.requantizer else ()),
    ):
        _add_mode(stimulus, rng)
        yield stimulus


def errors_at_once(config: MacroConfig, rng: Generator) -> Stimulus:
    """The first load and the first run are both illegal; if nothing stalls, they are refused in one cycle."""
    stimulus = Stimulus(config)
    _add_mode(stimulus, rng)
    load, run = stimulus.loads[0], stimulus.runs[0]
    stimulus.loads[0] = replace(load, payload=with_fields(load.payload, LOAD_FIELDS, rows=0))
    stimulus.runs[0] = replace(run, payload=with_fields(run.payload, RUN_FIELDS, bank=config.banks))
    return stimulus


def _add_mode(stimulus: Stimulus, rng: Generator) -> None:
    """Add a legal load and run on the next bank."""
    config = stimulus.config
    pattern, groups = config.modes[rng.integers(len(config.modes))]
    # The run after it can be refused once all but two of its vectors have begun, so with three its weights are there.
    random_mode(stimulus, rng, len(stimulus.loads) % config.banks, pattern, groups, 3)


def _two_modes(config: MacroConfig, rng: Generator) -> Stimulus:
    stimulus = Stimulus(config)
    _add_mode(stimulus, rng)
    _add_mode(stimulus, rng)
    return stimulus


def _illegal_loads(config: MacroConfig, rng: Generator) -> Iterator[Stimulus]:
    wrong = [{"bank": config.banks}, {"bank": 15}, {"rows": 0}, {"rows": config.rows + 1}, {"rows": 0xFFFF}]
    wrong.append({"bank": config.banks, "rows": 0})  # the lower kind wins
    if not config.requantizer:
        wrong.append({"constants": 1})
    for fields in wrong:
        stimulus = _two_modes(config, rng)
        item = stimulus.loads[1]
        stimulus.loads[1] = replace(item, payload=with_fields(item.payload, LOAD_FIELDS, **fields))
        yield stimulus


def _illegal_runs(config: MacroConfig, rng: Generator) -> Iterator[Stimulus]:
    most_groups = config.sub_macros.bit_length() - 1
    wrong = [
        {"bank": config.banks},
        {"bank": 15},
        {"groups": most_groups + 1},
        {"groups": 15},
        {"rows": 0},
        {"rows": config.rows + 1},
        {"rows": 0xFFFF},
        {"vectors": 0},
        {"first_k": 0, "last_k": 0},
        {"first_k": 0},
        {"requantize": 1, "last_k": 0},
        {"bank": config.banks, "rows": 0},  # the lower kind wins
        {"rows": 0, "vectors": 0},
    ]
    if config.accumulator_depth < MAX_VECTORS:
        wrong.append({"vectors": config.accumulator_depth + 1, "groups": 0, "last_k": 0})
    if len(config.patterns) < 256:
        wrong += [{"pattern": len(config.patterns)}, {"pattern": 255}]
    if not config.requantizer:
        wrong.append({"requantize": 1})
    wrong += [
        {"pattern": index, "groups": most_groups} for index, pattern in enumerate(config.patterns) if pattern.n > 1
    ]
    for fields in wrong:
        stimulus = _two_modes(config, rng)
        item = stimulus.runs[1]
        stimulus.runs[1] = replace(item, payload=with_fields(item.payload, RUN_FIELDS, **fields))
        yield stimulus
    if config.rows > 1:
        # More rows than were loaded: the image loses its last.
        stimulus = _two_modes(config, rng)
        load = stimulus.loads[1]
        image = replace(load.image, weights=load.image.weights[:-1], offsets=load.image.offsets[:-1])
        payload = with_fields(load.payload, LOAD_FIELDS, rows=config.rows - 1)
        stimulus.loads[1] = replace(load, payload=payload, image=image)
        yield stimulus


def _illegal_orders(config: MacroConfig, rng: Generator) -> Iterator[Stimulus]:
    """A second K tile that does not fit the first."""
    wrong = [{"first_k": 1}, {"first_k": 1, "last_k": 1}, {"first_k": 0, "vectors": 1}]
    for fields in [*wrong, {"first_k": 0, "groups": 1}] if config.sub_macros > 1 else wrong:
        stimulus = Stimulus(config)
        pattern = config.patterns[0]
        if "groups" in fields and 2 not in config.legal_groups(pattern):
            continue
        for bank in (0, 1 % config.banks):
            random_mode(stimulus, rng, bank, pattern, 1, min(3, config.accumulator_depth))
            item = stimulus.runs[-1]
            changed = {"last_k": 0, "requantize": 0} | (fields if len(stimulus.runs) == 2 else {})
            stimulus.runs[-1] = replace(item, payload=with_fields(item.payload, RUN_FIELDS, **changed))
        yield stimulus


def _misplaced_lasts(config: MacroConfig, rng: Generator) -> Iterator[Stimulus]:
    """``last`` missing, and ``last`` too early."""
    for index in (-1, 0):
        stimulus = _two_modes(config, rng)
        load = stimulus.loads[1]
        stimulus.loads[1] = replace(load, wrong_last=index % config.weight_beats(len(load.image.weights)))
        yield stimulus
    for early in (False, True):
        stimulus = _two_modes(config, rng)
        run = stimulus.runs[1]
        beats = run.beats.shape[1]
        stimulus.runs[1] = replace(run, wrong_last=beats if early else 2 * beats - 1)
        yield stimulus


def _illegal_constants(config: MacroConfig, rng: Generator) -> Iterator[Stimulus]:
    """Constants without an end, and requantizing without constants."""
    stimulus = _two_modes(config, rng)
    load = stimulus.loads[1]
    image = replace(load.image, constants=random_constants(rng, config.tile_outputs(config.sub_macros)))
    payload = with_fields(load.payload, LOAD_FIELDS, constants=1)
    last_beat = config.result_beats(config.sub_macros) - 1
    stimulus.loads[1] = replace(load, payload=payload, image=image, wrong_last_constant=last_beat)
    yield stimulus

    stimulus = _two_modes(config, rng)
    load, run = stimulus.loads[1], stimulus.runs[1]
    payload = with_fields(load.payload, LOAD_FIELDS, constants=0)
    stimulus.loads[1] = replace(load, payload=payload, image=replace(load.image, constants=None))
    stimulus.runs[1] = replace(run, payload=with_fields(run.payload, RUN_FIELDS, requantize=1))
    yield stimulus
