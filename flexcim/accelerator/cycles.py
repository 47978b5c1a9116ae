"""The exact cycle model of the accelerator: when each word, beat and vector of a program moves, by the recurrences of
docs/architecture.md, section 7.5.

Cycle 0 is the one in which the sequencer sees the start. All streams flow freely unless stall patterns are given.

A layer repeats itself, tile by tile and round by round. Where the streams flow freely, nothing depends on the absolute
time; so once all is again as it was before, relative to the last dispatch, and the same instructions follow as followed
then, they take as long as they did, and are counted without being carried out.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace

import numpy as np
from numpy.typing import NDArray

from flexcim.accelerator.instructions import AcceleratorProgram, Instruction, LoadTile, Loop, RunTiles
from flexcim.accelerator.stream_cycles import Intake, NextCycle, Outlet, at_once
from flexcim.config.accelerator import AcceleratorConfig
from flexcim.macro.cycles import PIPELINE_CYCLES, CycleError, result_entries

__all__ = ["AcceleratorCycles", "AcceleratorTiming"]


@dataclass(frozen=True)
class AcceleratorCycles:
    """What a program costs.

    Parameters
    ----------
    cycles : int
        What the register CYCLES holds in the end.
    weight_stalls, activation_stalls, result_stalls : int
        What the registers of these names hold.
    issue_cycles : int
        Cycles in which an array issues a slice, summed over the macros.
    weight_words, activation_words, result_words : int
        Words that the three streams move.
    """

    cycles: int
    weight_stalls: int
    activation_stalls: int
    result_stalls: int
    issue_cycles: int
    weight_words: int
    activation_words: int
    result_words: int


class _Macro:
    """When one macro's banks, array and results are free."""

    def __init__(self, banks: int, entries: int) -> None:
        self.free_from: list[int] = [0] * banks
        self.loaded_at: dict[int, int] = {}
        self.load_ends = 0
        self.array_free = 0
        self.started = 0
        self.result = 0
        self.freed = deque([-1] * entries, maxlen=entries)

    def state(self, base: int) -> tuple[int, ...]:
        """What later loads and runs depend on."""
        times = (*self.free_from, self.load_ends, self.array_free, self.started, self.result, *self.freed)
        loaded = (part for bank in sorted(self.loaded_at) for part in (-1 - bank, max(0, self.loaded_at[bank] - base)))
        return *(max(0, cycle - base) for cycle in times), *loaded


class AcceleratorTiming:
    """The timing of programs that follow each other on one accelerator; tiles stay where programs leave them.

    A program starts when all that the one before began is at rest.

    Parameters
    ----------
    config : AcceleratorConfig
        The accelerator, after a reset.
    """

    def __init__(self, config: AcceleratorConfig) -> None:
        self.config = config
        self._entries = result_entries(config.macro)
        self._resident: list[set[int]] = [set() for _ in range(config.macros)]

    def run(self, program: AcceleratorProgram, stalls: Mapping[str, NextCycle] | None = None) -> AcceleratorCycles:
        """Carry out the recurrences over a program.

        Parameters
        ----------
        program : AcceleratorProgram
            A legal program.
        stalls : mapping of str to NextCycle, optional
            By ``weights``, ``activations`` and ``results``: when the far ends go; those not named always do.

        Raises
        ------
        CycleError
            If the program can never finish.
        """
        passing = _Pass(self.config, self._entries, self._resident, stalls or {})
        cycles = passing.carry_out(program)
        self._resident = [set(macro.loaded_at) for macro in passing.macros]
        return cycles


def _dispatched(program: AcceleratorProgram) -> Iterator[Instruction]:
    """The instructions as they are dispatched: a loop, and then what it repeats."""
    position = 0
    while position < len(program.instructions):
        instruction = program.instructions[position]
        position += 1
        yield instruction
        if isinstance(instruction, Loop):
            body = program.loop_body(position - 1)
            for _ in range(instruction.count):
                yield from body
            position += instruction.length


def _timing_key(instruction: Instruction) -> Hashable:
    """All of an instruction that its timing depends on: not where in the activation memory its beats are."""
    if isinstance(instruction, Loop):
        return None
    return replace(instruction, address=0, store=False) if isinstance(instruction, RunTiles) else instruction


def _repeats(ids: NDArray[np.int64], first: int, position: int) -> int:
    """How often the steps from ``first`` to ``position`` come again from there on."""
    differs = ids[position:] != ids[first : len(ids) - (position - first)]
    equal = int(np.argmax(differs)) if differs.any() else len(differs)
    return equal // (position - first)


class _Pass:
    """One program from its start to its end."""

    def __init__(
        self, config: AcceleratorConfig, entries: int, resident: list[set[int]], stalls: Mapping[str, NextCycle]
    ) -> None:
        self.config = config
        self.stalled = bool(stalls)
        self.weights = Intake(config.weight_bus, config.weight_beat_bits, stalls.get("weights", at_once))
        self.activations = Intake(
            config.activation_bus, config.activation_beat_bits, stalls.get("activations", at_once)
        )
        self.outlet = Outlet(config.result_beat_bits, config.result_bus, stalls.get("results", at_once))
        self.macros = [_Macro(config.macro.banks, entries) for _ in range(config.macros)]
        for macro, banks in zip(self.macros, resident, strict=True):
            macro.loaded_at = dict.fromkeys(banks, -1)
        self.dispatched = 0
        self.command = 0  # when the last load's command was taken
        self.last_weight = 0
        self.run_begun = 0
        self.last_activation = 0
        self.issued = 0
        # When the places in the queues became free again.
        self.loads = deque([-1] * config.load_queue, maxlen=config.load_queue)
        self.runs = deque([-1] * config.run_queue, maxlen=config.run_queue)
        self.results = deque([-1] * config.run_queue, maxlen=config.run_queue)

    def carry_out(self, program: AcceleratorProgram) -> AcceleratorCycles:
        """All instructions, then the ``END``."""
        steps = list(_dispatched(program))
        numbers: dict[Hashable, int] = {}
        ids = np.array([numbers.setdefault(_timing_key(step), len(numbers)) for step in steps], np.int64)
        seen: dict[Hashable, tuple[int, NDArray[np.int64]]] = {}
        skipped = np.zeros(len(fields(AcceleratorCycles)), np.int64)
        position = 0
        while position < len(steps):
            step = steps[position]
            self._step(step)
            position += 1
            if isinstance(step, RunTiles) and not self.stalled:
                state, counters = self._state(), self._counters(self.dispatched) + skipped
                if state in seen:
                    first, before = seen[state]
                    repeats = _repeats(ids, first, position)
                    skipped += repeats * (counters - before)
                    counters += repeats * (counters - before)
                    position += repeats * (position - first)
                seen[state] = position, counters
        self._dispatch(0)
        done = 1 + max(self.dispatched, self.last_weight, self.last_activation, self.outlet.last_word)
        return AcceleratorCycles(*(self._counters(done) + skipped).tolist())

    def _state(self) -> Hashable:
        """What the timing of later instructions depends on, relative to the last dispatch.

        They come later than that, so that of times before it only that they are past matters.
        """
        base = self.dispatched
        times = self.command, self.last_weight, self.run_begun, self.last_activation
        queues = (*self.loads, *self.runs, *self.results)
        return (
            tuple(max(0, cycle - base) for cycle in (*times, *queues)),
            *(stream.state(base) for stream in (self.weights, self.activations)),
            self.outlet.state(base),
            *(macro.state(base) for macro in self.macros),
        )

    def _counters(self, cycle: int) -> NDArray[np.int64]:
        """The fields of `AcceleratorCycles`."""
        stalls = self.weights.stalls, self.activations.stalls, self.outlet.stalls
        words = self.weights.words, self.activations.words, self.outlet.words
        return np.array([cycle, *stalls, self.issued, *words], np.int64)

    def _step(self, instruction: Instruction) -> None:
        if isinstance(instruction, LoadTile):
            self._load(instruction)
        elif isinstance(instruction, RunTiles):
            self._run(instruction)
        else:
            self._dispatch(0)

    def _dispatch(self, room: int) -> None:
        """Dispatch the next instruction, from a cycle on."""
        self.dispatched = max(self.dispatched + 2, room)

    def _load(self, load: LoadTile) -> None:
        self._dispatch(self.loads[0] + 1)
        macro = self.macros[load.macro]
        if load.bank in macro.loaded_at:
            raise CycleError(
                f"a load must wait for bank {load.bank} of macro {load.macro}, which no run before it releases"
            )
        self.weights.announce(load.words, self.dispatched)
        self.command = max(self.command + 1, self.dispatched + 1, macro.load_ends)
        earliest = max(self.command + 1, macro.free_from[load.bank])
        beats = self.config.macro.weight_beats(load.rows)
        for beat in range(beats):
            self.last_weight = self.weights.take(earliest, final=beat == beats - 1)
        macro.load_ends = macro.loaded_at[load.bank] = self.last_weight
        self.loads.append(self.last_weight)

    def _run(self, run: RunTiles) -> None:
        self._dispatch(max(self.runs[0], self.results[0] if run.last_k else -1) + 1)
        for index in run.macros:
            if run.bank not in self.macros[index].loaded_at:
                raise CycleError(f"a run needs bank {run.bank} of macro {index}, which no load before it fills")
        self.run_begun = max(self.run_begun + 1, self.dispatched + 1, self.last_activation)
        self.runs.append(self.run_begun)
        if not run.replay:
            self.activations.announce(run.words, self.dispatched)
        visible = self.dispatched + 1
        macros = [self.macros[index] for index in run.macros]
        for vector in range(run.vectors):
            self._fill(run, macros, final=vector == run.vectors - 1)
            self._start(run, macros)
            if run.last_k:
                self._leave(run, macros, visible, end=run.end_packet and vector == run.vectors - 1)
        self.issued += run.vectors * self.config.macro.issue_cycles(run.pattern) * len(macros)
        if run.last_k:
            self.results.append(self.outlet.last_beat)
        if run.release:
            for macro in macros:
                del macro.loaded_at[run.bank]
                macro.free_from[run.bank] = macro.array_free

    def _fill(self, run: RunTiles, macros: Sequence[_Macro], *, final: bool) -> None:
        """Take a vector's beats."""
        earliest = max(self.run_begun + 1, *(macro.started for macro in macros))
        if run.replay:
            self.last_activation = max(earliest, self.last_activation + 1) + run.beats - 1
            return
        for beat in range(run.beats):
            earliest = max(earliest, self.last_activation + 1)
            self.last_activation = self.activations.take(earliest, final=final and beat == run.beats - 1)

    def _start(self, run: RunTiles, macros: Sequence[_Macro]) -> None:
        """Start the vector on each macro, as soon as its array, bank and a result entry are free."""
        issue = self.config.macro.issue_cycles(run.pattern)
        for macro in macros:
            macro.started = max(self.last_activation + 1, macro.array_free, macro.loaded_at[run.bank] + 1)
            if run.last_k:
                macro.started = max(macro.started, macro.freed[0] + 1)
            macro.array_free = macro.started + issue

    def _leave(self, run: RunTiles, macros: Sequence[_Macro], visible: int, *, end: bool) -> None:
        """Take the vector's results, macro by macro."""
        beats = self.config.macro.result_beats(run.groups)
        for macro in macros:
            earliest = max(visible, macro.array_free + PIPELINE_CYCLES)
            for beat in range(beats):
                last = end and macro is macros[-1] and beat == beats - 1
                macro.result = self.outlet.put(max(earliest, macro.result + 1), end=last)
            macro.freed.append(macro.result)
