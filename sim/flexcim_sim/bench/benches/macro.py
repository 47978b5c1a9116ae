"""The test bench of a macro: clock, reset, all streams, and the rules that every played stimulus has to keep."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from cocotb.clock import Clock
from cocotb.triggers import ClockCycles

from flexcim.config.macro import MacroConfig
from flexcim.macro.commands import ErrorKind
from flexcim.macro.cycles import program_cycles
from flexcim_sim.bench.benches.checker import Checker, Expectation, MismatchError, expect
from flexcim_sim.bench.coverage.counts import Coverage
from flexcim_sim.bench.coverage.macro import Handshake, RunMonitor, paused_streams
from flexcim_sim.bench.coverage.model import SeenRun, coverage_axes, cross_of, data_streams
from flexcim_sim.bench.ends.streams import ContractError, Sink, Source, Stall, level
from flexcim_sim.bench.ends.trace import StreamTrace, TraceRecorder
from flexcim_sim.bench.stimuli.macro import Stimulus

__all__ = ["MacroBench", "Played"]

_NO_STALLS: Mapping[str, Stall] = MappingProxyType({})


@dataclass(frozen=True)
class Played:
    """What happened while a stimulus was played.

    Parameters
    ----------
    cycles : int
        From the first accepted beat of weights or activations to the last result beat, both counted; 0 if none came.
    predicted : int
        The same by the cycle model; 0 where it does not apply, as something stalled or an error came.
    payloads : list of int
        The beats of the result stream.
    mismatches : int
        Beats that differ from the golden model's.
    traces : mapping of str to StreamTrace
        What the pins of each stream showed; nothing unless asked for.
    """

    cycles: int
    predicted: int
    payloads: list[int]
    mismatches: int
    traces: Mapping[str, StreamTrace] = field(default_factory=dict)


class MacroBench:
    """Clocks a macro and plays stimuli on it.

    Parameters
    ----------
    dut : cocotb handle
        The macro.
    config : MacroConfig
        Its configuration.

    Attributes
    ----------
    results : int
        Results compared with the golden model so far, each a number of 32 bits.
    cycles : int
        Cycles simulated so far.
    coverage : Coverage
        The runs that the macro carried out so far.
    """

    def __init__(self, dut: Any, config: MacroConfig) -> None:
        self.config = config
        self.results = 0
        self.cycles = 0
        self._dut = dut
        names = ["load", "run", "weights", "activations", *(["constants"] if config.requantizer else [])]
        self._sources = [Source.of(dut, name) for name in names]
        self._sink = Sink.of(dut, "results")
        self.coverage = Coverage.of(config)
        self._axes = coverage_axes(config)
        self._handshakes = [Handshake.of(dut, name) for name in data_streams(config)]
        self._monitor = RunMonitor(dut, config, self._cover)
        slowest = max(max(map(config.issue_cycles, config.patterns)), config.result_beats(config.sub_macros))
        # A macro that is at work moves some stream more often than this.
        self._patience = 3 * slowest + 32
        Clock(dut.clk, 10, unit="ns").start()

    async def reset(self) -> None:
        """Reset the macro; no stream offers anything meanwhile, and nothing may come out afterwards."""
        self._dut.rst.value = 1
        for source in self._sources:
            source.restart(())
        self._sink.restart(_refuse)
        self._monitor.restart()
        await ClockCycles(self._dut.clk, 2)
        self._dut.rst.value = 0
        await ClockCycles(self._dut.clk, 1)
        if self._error() is not ErrorKind.NONE or level(self._dut.results__valid, 0):
            raise ContractError("after a reset, the error must be 0 and no result may be offered")

    async def play(
        self,
        stimulus: Stimulus,
        stalls: Mapping[str, Stall] = _NO_STALLS,
        *,
        stop_after: int | None = None,
        strict: bool = True,
        traced: bool = False,
    ) -> Played:
        """Play a stimulus on a macro that was reset, and compare what comes out with the golden model.

        Without stalls, the cycles must be those of the cycle model, too. If the stimulus holds an error, its kind must
        be reported, and just those results must come that do not depend on it.

        Parameters
        ----------
        stimulus : Stimulus
            What to put in.
        stalls : mapping of stream name to Stall
            When the bench pauses; streams that are not named never do.
        stop_after : int, optional
            Stop after so many cycles, whatever is under way.
        strict : bool
            Whether wrong results and cycles are errors, or only told.
        traced : bool
            Whether to record the pins of all streams, which slows the simulation down.

        Raises
        ------
        ContractError, MismatchError
            If the macro does not keep the contract.
        """
        payloads, expectation = stimulus.payloads(), expect(stimulus)
        self._dut._log.debug(
            "%d loads, %d runs, stalls on %s, then %s",
            len(stimulus.loads),
            len(stimulus.runs),
            ", ".join(stalls) or "no stream",
            expectation.error.name,
        )
        checker = Checker(stimulus, expectation, strict=strict)
        for source in self._sources:
            source.restart(payloads[source.name], stalls.get(source.name))
        self._sink.restart(checker.take, stalls.get(self._sink.name))
        streams = [source.name for source in self._sources] + [self._sink.name]
        recorder = TraceRecorder(self._dut, streams if traced else ())

        await self._move(checker, expectation, recorder, stop_after or 0, self._patience * (8 if stalls else 1))
        self.results += checker.results
        cycles, predicted = self._measured_cycles(), 0
        if not stop_after:
            self._check_end(stimulus, checker, expectation)
            if not stalls and not expectation.error:
                predicted = program_cycles(self.config, stimulus.program).cycles
                if strict and cycles != predicted:
                    raise MismatchError(f"it took {cycles} cycles, but the cycle model says {predicted}")
        return Played(cycles, predicted, checker.payloads, checker.mismatches, recorder.traces)

    def _measured_cycles(self) -> int:
        """Cycles from the first accepted beat of weights or activations to the last result beat."""
        firsts = [source.first_cycle for source in self._sources if source.name in ("weights", "activations")]
        begun = [cycle for cycle in firsts if cycle is not None]
        last = self._sink.last_cycle
        return last - min(begun) + 1 if last is not None else 0

    async def _move(
        self, checker: Checker, expectation: Expectation, recorder: TraceRecorder, stop_after: int, patience: int
    ) -> None:
        """Move beats until all have been moved, or none moves any more."""
        edge = self._dut.clk.rising_edge
        live, sink = self._sources, self._sink
        cycle, quiet = 0, 0
        while quiet < patience and (not stop_after or cycle < stop_after):
            await edge
            recorder.step()
            self._monitor.step(cycle, paused_streams(self._handshakes, cycle))
            if expectation.error and self._error():
                taken = [source.name for source in live if source.step(cycle)]
                if taken:
                    raise ContractError(f"cycle {cycle}: {taken[0]} took a beat in spite of the error")
                moved = False
                patience = self._patience  # only results move now
            else:
                moved = False
                for source in live:
                    moved |= source.step(cycle)
                if moved:
                    live = [source for source in live if not source.exhausted]
            moved |= sink.step(cycle)
            quiet = 0 if moved else quiet + 1
            if not live and checker.complete and not expectation.error:
                # Nothing is left to do. Another result, which would be wrong, would come soon.
                patience = min(patience, self._patience // 2)
            cycle += 1
        self.cycles += cycle

    def _cover(self, run: SeenRun) -> None:
        self.coverage.add(cross_of(self._axes, run))

    def _check_end(self, stimulus: Stimulus, checker: Checker, expectation: Expectation) -> None:
        """Raise unless all that should have moved has moved, and the error is right."""
        error = self._error()
        progress = ", ".join([source.progress for source in self._sources] + [checker.progress])
        if error is not expectation.error:
            raise ContractError(f"the error is {error.name}, but must be {expectation.error.name} ({progress})")
        if not error:
            if not checker.complete or not all(source.exhausted for source in self._sources):
                raise ContractError(f"the macro stands still: {progress} beats were moved")
            return
        accepted = {source.name: source.accepted for source in self._sources}
        vectors = stimulus.whole_vectors(accepted["activations"])
        loads = stimulus.whole_loads(accepted["weights"], accepted.get("constants", 0))
        expected = expectation.beats(vectors, loads)
        if checker.beats != expected:
            raise MismatchError(
                f"after {error.name}, {checker.beats} result beats came, but the {vectors} vectors and {loads} tiles "
                f"that had been taken whole give {expected} ({progress})"
            )

    def _error(self) -> ErrorKind:
        value = str(self._dut.error.value)
        if not set(value) <= {"0", "1"}:
            raise ContractError(f"error is {value}")
        return ErrorKind(int(value, 2))


def _refuse(payload: int, cycle: int) -> None:
    raise ContractError("a result came during a reset")
