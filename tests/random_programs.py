"""Random legal programs, whose runs need not use the banks in the order of their loads, and who uses which load."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np

from flexcim.commands import Load, Run
from flexcim.config import MacroConfig
from flexcim.program import LoadStep, Program, RunStep, Step

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
    loaded: dict[int, Load] = {}
    groups_of: dict[int, int] = {}  # of banks with constants, which fit the runs of one G
    unused: set[int] = set()  # banks that were loaded, but not used yet
    before: Run | None = None  # the run before, while its accumulation is open
    while len(program) < steps or before or unused:
        free = [bank for bank in range(config.banks) if bank not in loaded]
        fits = [bank for bank in loaded if before is None or groups_of.get(bank, before.groups) == before.groups]
        if free and (not fits or (len(program) < steps and rng.random() < 0.5)):
            bank = int(rng.choice(free))
            constants = config.requantizer and bool(rng.random() < 0.5)
            loaded[bank] = Load(bank=bank, rows=int(rng.integers(1, config.rows + 1)), constants=constants)
            groups_of.pop(bank, None)
            if constants:
                groups_of[bank] = before.groups if before else config.modes[rng.integers(len(config.modes))][1]
            unused.add(bank)
            program.append(LoadStep(loaded[bank], 0))
            continue
        ending = len(program) >= steps
        bank = int(rng.choice([bank for bank in fits if not ending or bank in unused] or fits))
        run = _random_run(rng, config, loaded[bank], groups_of.get(bank), before, most_vectors)
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
    load: Load,
    groups: int | None,
    before: Run | None,
    most_vectors: int,
) -> Run:
    """A run on this load at this G, if one is given, that goes on with the run before, if one is given."""
    wanted = before.groups if before else groups
    modes = [mode for mode in config.modes if wanted in (None, mode[1])]
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


@dataclass
class Residency:
    """A tile in a bank: its load, and the runs that use it."""

    load: Load
    runs: list[Run] = field(default_factory=list)
    last_weight: int | None = None  # the cycle of its last beat, once it is known


def residencies(program: Program) -> tuple[list[Residency], list[Residency]]:
    """The residency of each load and of each run, both in their order."""
    of_loads = [Residency(load) for load in program.loads]
    waiting = {bank: [r for r in of_loads if r.load.bank == bank] for bank in {load.bank for load in program.loads}}
    of_runs: list[Residency] = []
    for run in program.runs:
        of_runs.append(waiting[run.bank][0])
        waiting[run.bank][0].runs.append(run)
        if run.release:
            waiting[run.bank].pop(0)
    return of_loads, of_runs
