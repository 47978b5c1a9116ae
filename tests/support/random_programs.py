"""Random legal programs, whose runs need not use the banks in the order of their loads, and who uses which load."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from flexcim.config.macro import MacroConfig
from flexcim.macro.commands import Load, Run
from flexcim.macro.program import LoadStep, Program, RunStep, Step

__all__ = ["Residency", "random_program", "residencies"]


def random_program(rng: np.random.Generator, config: MacroConfig, steps: int, most_vectors: int) -> Program:
    """Commands that finish: loads of free banks, and runs of loaded ones in any order and number, at any mode.

    Parameters
    ----------
    rng : Generator
        The dice.
    config : MacroConfig
        The macro.
    steps : int
        Commands, more or less.
    most_vectors : int
        Most vectors of a run.
    """
    program: list[Step] = []
    loaded: dict[int, LoadStep] = {}
    unused: set[int] = set()  # banks that were loaded, but not used yet
    before: Run | None = None  # the run before, while its accumulation is open
    while len(program) < steps or before or unused:
        free = [bank for bank in range(config.banks) if bank not in loaded]
        if free and (not loaded or (len(program) < steps and rng.random() < 0.5)):
            bank = int(rng.choice(free))
            constants = config.requantizer and bool(rng.random() < 0.5)
            command = Load(bank=bank, rows=int(rng.integers(1, config.rows + 1)), constants=constants)
            # As many as the runs of some G need; runs of more outputs then go without.
            _, groups = config.modes[rng.integers(len(config.modes))]
            loaded[bank] = LoadStep(command, 0, config.tile_outputs(groups) if constants else 0)
            unused.add(bank)
            program.append(loaded[bank])
            continue
        ending = len(program) >= steps
        bank = int(rng.choice([bank for bank in loaded if not ending or bank in unused] or list(loaded)))
        run = _random_run(rng, config, loaded[bank], before, most_vectors)
        if ending:
            run = replace(run, last_k=True)
        before = None if run.last_k else run
        unused.discard(bank)
        if run.release:
            del loaded[bank]
        program.append(RunStep(run, 0))
    return Program(tuple(program))


def _random_run(
    rng: np.random.Generator,
    config: MacroConfig,
    load: LoadStep,
    before: Run | None,
    most_vectors: int,
) -> Run:
    """A run on this load that goes on with the run before, if one is given."""
    modes = [mode for mode in config.modes if before is None or mode[1] == before.groups]
    pattern, groups = modes[rng.integers(len(modes))]
    last_k = bool(rng.random() < 0.6)
    fit = most_vectors if before is None and last_k else min(most_vectors, config.accumulator_depth // groups)
    return Run(
        bank=load.command.bank,
        pattern=pattern,
        groups=groups,
        rows=int(rng.integers(1, load.command.rows + 1)),
        vectors=before.vectors if before else int(rng.integers(1, fit + 1)),
        first_k=before is None,
        last_k=last_k,
        requantize=last_k and config.tile_outputs(groups) <= load.constants and bool(rng.random() < 0.7),
        release=bool(rng.random() < 0.6),
    )


@dataclass
class Residency:
    """A tile in a bank: its load."""

    load: LoadStep
    last_weight: int | None = None  # the cycle of its last beat, once it is known


def residencies(program: Program) -> tuple[list[Residency], list[Residency]]:
    """The residency of each load and of each run, both in their order."""
    of_loads = [Residency(step) for step in program.load_steps]
    waiting: dict[int, list[Residency]] = {}
    for residency in of_loads:
        waiting.setdefault(residency.load.command.bank, []).append(residency)
    of_runs: list[Residency] = []
    for run in program.runs:
        of_runs.append(waiting[run.bank][0])
        if run.release:
            waiting[run.bank].pop(0)
    return of_loads, of_runs
