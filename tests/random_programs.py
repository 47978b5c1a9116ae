"""Random legal programs, whose runs need not use the banks in the order in which they were loaded."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from flexcim.commands import Load, Run
from flexcim.config import MacroConfig
from flexcim.program import LoadStep, Program, RunStep, Step

__all__ = ["random_program"]


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
    loaded: dict[int, Load] = {}
    before: Run | None = None  # the run before, while its accumulation is open
    while len(program) < steps or before or not any(isinstance(step, RunStep) for step in program):
        free = [bank for bank in range(config.banks) if bank not in loaded]
        if free and (not loaded or rng.random() < 0.5):
            bank = int(rng.choice(free))
            constants = config.requantizer and bool(rng.random() < 0.5)
            loaded[bank] = Load(bank=bank, rows=int(rng.integers(1, config.rows + 1)), constants=constants)
            program.append(LoadStep(loaded[bank], 0))
            continue
        run = _random_run(rng, config, loaded[int(rng.choice(list(loaded)))], before, most_vectors)
        if len(program) >= steps:
            run = replace(run, last_k=True)
        before = None if run.last_k else run
        if run.release:
            del loaded[run.bank]
        program.append(RunStep(run, 0))
    return Program(tuple(program))


def _random_run(
    rng: np.random.Generator, config: MacroConfig, load: Load, before: Run | None, most_vectors: int
) -> Run:
    modes = [mode for mode in config.modes if before is None or mode[1] == before.groups]
    pattern, groups = modes[rng.integers(len(modes))]
    last_k = bool(rng.random() < 0.6)
    fit = most_vectors if before is None and last_k else min(most_vectors, config.accumulator_depth // groups)
    return Run(
        bank=load.bank,
        pattern=pattern,
        groups=groups,
        rows=int(rng.integers(1, load.rows + 1)),
        vectors=before.vectors if before else int(rng.integers(1, fit + 1)),
        first_k=before is None,
        last_k=last_k,
        requantize=last_k and load.constants and bool(rng.random() < 0.7),
        release=bool(rng.random() < 0.6),
    )
