"""The exact cycle model: when each beat and vector of a program moves, by the recurrences of docs/architecture.md,
section 3.3.

All streams are taken as never stalling from outside: inputs are always valid, the output is always ready. The RTL takes
exactly as many cycles, which the bench checks. Cycle 0 is the one in which the first commands are taken.
"""

from __future__ import annotations

from collections import defaultdict, deque
from dataclasses import dataclass

from flexcim.config.macro import MacroConfig, ceil_div
from flexcim.config.pattern import Pattern
from flexcim.errors import FlexCiMError
from flexcim.macro.commands import Run
from flexcim.macro.program import Program

__all__ = [
    "PIPELINE_CYCLES",
    "CycleError",
    "ProgramCycles",
    "paper_cells_per_block",
    "paper_layer_cycles",
    "program_cycles",
    "requantizer_cycles",
    "result_entries",
    "vector_cycles",
]

PIPELINE_CYCLES = 5
"""Cycles from a vector's last issue cycle to the first of its results: lanes, column sums, merged sums, slice
accumulator, and the result entry with the sum over K tiles take one each."""


class CycleError(FlexCiMError):
    """A program that can never finish, or is empty."""


@dataclass(frozen=True)
class ProgramCycles:
    """What a program costs.

    Parameters
    ----------
    cycles : int
        From the first accepted beat to the last result, both counted.
    issue_cycles : int
        Cycles of these in which the array is issuing a slice.
    """

    cycles: int
    issue_cycles: int


def requantizer_cycles(config: MacroConfig) -> int:
    """Latency that the requantizer adds to every result, in cycles."""
    return 2 if config.requantizer else 0


def result_entries(config: MacroConfig) -> int:
    """F, result vectors that the macro can hold: the fewest with which no mode waits for results that leave at once."""
    needed = 1
    for pattern, groups in config.modes:
        issue, beats = config.issue_cycles(pattern), config.result_beats(groups)
        needed = max(needed, ceil_div(issue + PIPELINE_CYCLES + beats, max(issue, beats)))
    return needed


def vector_cycles(config: MacroConfig, pattern: Pattern, groups: int, rows: int, *, emits: bool) -> int:
    """c, cycles between vectors in the steady state: max(T * A / b, beats, result beats if the results leave).

    Parameters
    ----------
    config : MacroConfig
        The macro.
    pattern, groups : Pattern, int
        The run's mode.
    rows : int
        Slot rows that take part.
    emits : bool
        Whether the results leave, as they do on the last K tile.
    """
    beats = config.vector_beats(config.window(pattern, groups), rows)
    return max(config.issue_cycles(pattern), beats, config.result_beats(groups) if emits else 0)


class _Banks:
    """When each bank was last released and is loaded next; carries the loads out as far as releases allow."""

    def __init__(self, config: MacroConfig, program: Program) -> None:
        self.config = config
        self.pending = deque(program.load_steps)
        self.free_from = dict.fromkeys(range(config.banks), 1)
        self.loaded_at: dict[int, int] = {}
        self.last_beat = 0
        self.results_left: dict[int, int] = defaultdict(int)

    def wait_for(self, run: Run) -> int:
        """The cycle of the last beat that run's bank was loaded with."""
        while run.bank not in self.loaded_at:
            if not self.pending:
                raise CycleError(f"a run waits for bank {run.bank}, but no load for it follows")
            step = self.pending.popleft()
            load = step.command
            if load.bank in self.loaded_at:
                raise CycleError(f"a load waits for bank {load.bank}, which a run that comes later releases")
            taken = self.last_beat  # the command is taken in the cycle of the last beat of the load before
            first_free = max(taken + 1, self.free_from[load.bank])
            self.last_beat = first_free + self.config.weight_beats(load.rows) - 1
            if load.constants:
                first_constant = max(first_free, self.results_left[load.bank] + 1)
                beats = ceil_div(step.constants, self.config.result_port)
                self.last_beat = max(self.last_beat, first_constant + beats - 1)
            self.loaded_at[load.bank] = self.last_beat
        return self.loaded_at[run.bank]

    def release(self, bank: int, cycle: int) -> None:
        """Let the next load of the bank begin in this cycle."""
        del self.loaded_at[bank]
        self.free_from[bank] = cycle


def program_cycles(config: MacroConfig, program: Program) -> ProgramCycles:
    """Carry out the recurrences of docs/architecture.md, section 3.3, over a program.

    Within a run the recurrence becomes periodic after a few vectors; the rest is then extrapolated, exactly.

    Parameters
    ----------
    config : MacroConfig
        The macro, after a reset.
    program : Program
        A legal program.

    Raises
    ------
    CycleError
        If the program has no run, or a run or load waits for ever.
    """
    if not program.runs:
        raise CycleError("the program has no run")
    entries = result_entries(config)
    extra = requantizer_cycles(config)
    banks = _Banks(config, program)
    start, occupied, issued = 0, 1, 0  # the vector before: its start, for how long it kept the array or the buffer
    last_result = 0
    freed: deque[int] = deque([0] * entries, maxlen=entries)  # when the last result entries became free

    for run in program.runs:
        issue = config.issue_cycles(run.pattern)
        beats = config.vector_beats(config.window(run.pattern, run.groups), run.rows)
        leave = config.result_beats(run.groups) if run.last_k else 0
        ready = banks.wait_for(run) + 1
        # The buffer takes the next vector's beats from the cycle in which this one starts.
        begin = max(start + max(occupied, beats), ready) if issued else max(1 + beats, ready)
        occupied, steps = issue, max(issue, beats)
        previous: tuple[int, int] | None = None
        steady = 0
        vector = 0
        while vector < run.vectors:
            if vector:
                begin = start + steps
            if leave:
                begin = max(begin, freed[0] + 1)
                last = max(begin + issue + PIPELINE_CYCLES + extra, last_result + 1) + leave - 1
                step = (begin - start, last - last_result)
                steady = steady + 1 if step == previous and step[0] == step[1] else 0
                previous = step
                freed.append(last - extra)
                last_result = last
            start = begin
            vector += 1
            if not leave or steady > entries:
                ahead = (run.vectors - vector) * (steps if not leave else step[0])
                start += ahead
                if leave:
                    last_result += ahead
                    freed = deque((cycle + ahead for cycle in freed), maxlen=entries)
                vector = run.vectors
        issued += run.vectors * issue
        if run.requantize:
            banks.results_left[run.bank] = last_result - extra
        if run.release:
            banks.release(run.bank, start + issue)
    return ProgramCycles(cycles=last_result, issue_cycles=issued)


def paper_cells_per_block(pattern: Pattern) -> int:
    """Cells that the paper's storage needs for a block whose mask differs from column to column: m - floor(m / (n +
    1)).

    A row of the paper's sub-macro gets one *pair* of activations, shared by all columns, and a cell keeps one bit that
    picks of the pair (arXiv 2504.14365). For 2:4 that is 3 cells, for 4:8 it is 7, where the slot format needs n.
    """
    return pattern.m if pattern.is_dense else pattern.m - pattern.m // (pattern.n + 1)


def paper_layer_cycles(config: MacroConfig, outputs: int, inputs: int, pattern: Pattern, vectors: int) -> int:
    """Steady-state cycles of a layer on the paper's storage with the cells of ``config``: an analytical figure, no
    RTL stands behind it.

    Each tile has S * R cells of each of C columns at G = 1, and passes a vector in A / b cycles; loads and latency
    cost nothing.

    Parameters
    ----------
    config : MacroConfig
        Gives the cells, and A / b.
    outputs, inputs : int
        Shape of the layer's weight matrix.
    pattern : Pattern
        Its pattern, on the menu or not.
    vectors : int
        Vectors to multiply.

    Raises
    ------
    CycleError
        If a block needs more cells than a column has.
    """
    blocks = config.sub_macros * config.rows // paper_cells_per_block(pattern)
    if not blocks:
        raise CycleError(
            f"a block of {pattern} needs {paper_cells_per_block(pattern)} cells, "
            f"but a column has {config.sub_macros * config.rows}"
        )
    tiles = ceil_div(inputs, blocks * pattern.m) * ceil_div(outputs, config.columns)
    return tiles * vectors * config.slices
