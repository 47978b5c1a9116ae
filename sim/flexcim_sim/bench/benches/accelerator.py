"""The test bench of an accelerator: programs through its buses, against the golden accelerator and the cycle model."""

from __future__ import annotations

from collections.abc import Mapping, Set
from types import MappingProxyType
from typing import Any

import numpy as np
from cocotb.clock import Clock
from cocotb.triggers import ClockCycles
from numpy.typing import NDArray

from flexcim.accelerator.cycles import AcceleratorTiming
from flexcim.accelerator.instructions import AcceleratorError
from flexcim.accelerator.registers import register
from flexcim.accelerator.stream_cycles import NextCycle
from flexcim.config.accelerator import AcceleratorConfig
from flexcim.config.macro import SUM_BITS
from flexcim_sim.bench.benches.checker import MismatchError
from flexcim_sim.bench.coverage.accelerator import AcceleratorMonitor
from flexcim_sim.bench.coverage.counts import Coverage
from flexcim_sim.bench.ends.axi import Axi4LiteMaster, AxiSink, AxiSource, RegisterMaster, WishboneMaster
from flexcim_sim.bench.ends.streams import ContractError, level
from flexcim_sim.bench.stimuli.accelerator import AcceleratorStimulus
from flexcim_sim.golden.accelerator import GoldenAccelerator, WordStream

__all__ = ["AcceleratorBench"]

_LATE = 100
"""Cycles after an error in which nothing may be taken any more."""

_COUNTERS = ("CYCLES", "WEIGHT_STALLS", "ACTIVATION_STALLS", "RESULT_STALLS")
_FREE: Mapping[str, NextCycle] = MappingProxyType({})
_NO_LASTS: Mapping[str, Set[int]] = MappingProxyType({})


def _at_once(cycle: int) -> int:
    return cycle


class AcceleratorBench:
    """Clocks an accelerator and plays programs on it.

    Parameters
    ----------
    dut : cocotb handle
        The accelerator.
    config : AcceleratorConfig
        Its configuration.

    Attributes
    ----------
    registers : RegisterMaster
        Its registers.
    results, cycles : int
        Sums compared with the golden accelerator so far, and cycles simulated in programs.
    coverage : Coverage
        The runs that its macros carried out in legal programs so far.
    """

    def __init__(self, dut: Any, config: AcceleratorConfig) -> None:
        self.config = config
        self.results = 0
        self.cycles = 0
        self._dut = dut
        self._sources = [AxiSource(dut, name) for name in ("weights", "activations")]
        self._sink = AxiSink(dut)
        self.registers: RegisterMaster = (
            Axi4LiteMaster(dut) if config.register_bus == "axi4-lite" else WishboneMaster(dut)
        )
        self.coverage = Coverage.of(config)
        self._monitor = AcceleratorMonitor(dut, config, self.coverage)
        self._forget()
        Clock(dut.clk, 10, unit="ns").start()

    def _forget(self) -> None:
        """The models after a reset."""
        self._golden = GoldenAccelerator(self.config)
        self._timing = AcceleratorTiming(self.config)
        self._monitor.restart()

    async def reset(self) -> None:
        """Reset everything by the ``rst`` port."""
        self._dut.rst.value = 1
        self._quiet()
        await ClockCycles(self._dut.clk, 2)
        self._dut.rst.value = 0
        await ClockCycles(self._dut.clk, 1)
        await self._begin_anew()

    async def soft_reset(self) -> None:
        """Reset the core by CONTROL.reset."""
        self._quiet()
        await self.write("CONTROL", reset=1)
        await ClockCycles(self._dut.clk, 1)
        await self._begin_anew()

    def _quiet(self) -> None:
        for source in self._sources:
            source.restart(np.zeros((0, 1), np.uint8), _at_once)
        self._sink.pause()

    async def _begin_anew(self) -> None:
        self._forget()
        if await self.read("STATUS") or await self.read("ERROR") or level(self._dut.m_axis_results_tvalid, 0):
            raise ContractError("after a reset, STATUS and ERROR must be 0 and no result may be offered")
        await self.write("INTERRUPT", done=1, error=1)

    # -- registers -----------------------------------------------------------------------------------------------------

    async def read(self, name: str, field: str | None = None) -> int:
        """A register's value, or a field's."""
        entry = register(name)
        value = await self.registers.read(entry.address)
        if field is None:
            return value
        place = next(one for one in entry.fields if one.name == field)
        return (value & place.mask) >> place.low

    async def write(self, name: str, **fields: int) -> None:
        """Write a register; fields that are not given are 0."""
        await self.registers.write(register(name).address, _value(name, **fields))

    async def write_program(self, words: NDArray[np.uint32], entry: int = 0) -> None:
        """Write instructions into the program memory."""
        await self.write("PROGRAM_ADDRESS", word=4 * entry)
        for word in words.reshape(-1).tolist():
            await self.write("PROGRAM_DATA", word=word)
        await self.write("PROGRAM_ENTRY", instruction=entry)

    # -- programs ------------------------------------------------------------------------------------------------------

    async def play(
        self,
        stimulus: AcceleratorStimulus,
        goes: Mapping[str, NextCycle] = _FREE,
        *,
        lasts: Mapping[str, Set[int]] = _NO_LASTS,
        entry: int = 0,
    ) -> None:
        """Play a legal program, and compare every byte, packet, word, counter and cycle with the models.

        Parameters
        ----------
        stimulus : AcceleratorStimulus
            The program and its images.
        goes : mapping of str to NextCycle
            When the far ends of ``weights``, ``activations`` and ``results`` go; those not named always do.
        lasts : mapping of str to set of int
            Words of the input streams that carry ``tlast``.
        entry : int
            Where in the program memory to put it.

        Raises
        ------
        ContractError, MismatchError
            If the accelerator does not keep the contract.
        """
        words = stimulus.program.words(self.config.macro)
        expected = self._golden.execute(words, WordStream(stimulus.weights), WordStream(stimulus.activations))
        predicted = self._timing.run(stimulus.program, goes)
        await self.write_program(words, entry)
        self._monitor.expect(stimulus.program)
        data, packets = await self._carry_out(stimulus, goes, lasts, predicted.cycles + 3)
        if not await self.read("STATUS", "done"):
            progress = ", ".join(source.progress for source in self._sources)
            kind = AcceleratorError(await self.read("ERROR", "kind"))
            raise ContractError(
                f"not done after {predicted.cycles + 2} cycles: {progress}, results {len(data)}/"
                f"{expected.results.size} bytes, error {kind.name}, "
                f"instruction {await self.read('POSITION')} of {len(words)}"
            )
        self._compare(data, expected.results.tobytes())
        if packets != expected.packets:
            raise MismatchError(f"packets end after {packets} bytes, but must after {expected.packets}")
        counted = {name: await self.read(name) for name in _COUNTERS}
        wanted = {name: getattr(predicted, name.lower()) for name in _COUNTERS}
        if counted != wanted:
            raise MismatchError(f"the registers count {counted}, but the cycle model says {wanted}")
        if not all(source.exhausted for source in self._sources):
            raise MismatchError(f"words are left: {', '.join(source.progress for source in self._sources)}")

    async def break_off(self, stimulus: AcceleratorStimulus, cycles: int) -> None:
        """Start a legal program and leave it after so many cycles; only a reset can follow."""
        self._monitor.restart()
        await self.write_program(stimulus.program.words(self.config.macro))
        await self._carry_out(stimulus, _FREE, _NO_LASTS, cycles)

    async def refuse(
        self,
        program: NDArray[np.uint32],
        stimulus: AcceleratorStimulus,
        kind: AcceleratorError,
        goes: Mapping[str, NextCycle] = _FREE,
        *,
        lasts: Mapping[str, Set[int]] = _NO_LASTS,
        entry: int = 0,
    ) -> None:
        """Play a wrong program, or right ones with wrong words: the error must be told, stay, and end everything.

        Parameters
        ----------
        program : ndarray of uint32, [instructions, 4]
            The program memory's image.
        stimulus : AcceleratorStimulus
            The legal program from which it was made: its words go in, and its results are what may come out, up to
            the error.
        kind : AcceleratorError
            What must be told.
        goes, lasts
            As for `play`.
        entry : int
            Where the program is started.

        Raises
        ------
        ContractError, MismatchError
            If the accelerator does not keep the contract.
        """
        legal = GoldenAccelerator(self.config).execute(
            stimulus.program.words(self.config.macro),
            WordStream(stimulus.weights),
            WordStream(stimulus.activations),
        )
        streams = [
            WordStream(getattr(stimulus, name), _flags(len(getattr(stimulus, name)), lasts.get(name, frozenset())))
            for name in ("weights", "activations")
        ]
        self._golden.execute(program, *streams, entry=entry)
        if self._golden.error != kind:
            raise MismatchError(f"the golden accelerator says {self._golden.error.name}, not {kind.name}")
        self._monitor.restart()
        await self.write_program(program)
        await self.write("PROGRAM_ENTRY", instruction=entry)
        limit = 40 * AcceleratorTiming(self.config).run(stimulus.program).cycles + 400
        data, _ = await self._carry_out(stimulus, goes, lasts, limit)
        before = [source.accepted for source in self._sources]
        late, _ = await self._move(_LATE, _at_once, until_interrupt=False)
        if [source.accepted for source in self._sources] != before:
            raise ContractError(f"words were taken in spite of {kind.name}")
        data += late
        self._compare(data, legal.results.tobytes()[: len(data)])
        await self.check_error(kind)

    async def check_error(self, kind: AcceleratorError) -> None:
        """Raise unless the sticky error is this one."""
        error = await self.read("ERROR")
        told = AcceleratorError(error & 15)
        if told is not kind:
            raise ContractError(f"the error is {told.name}, but must be {kind.name}")
        if kind is AcceleratorError.MACRO:
            macro, macro_kind = error >> 4 & 15, error >> 8 & 15
            if (macro, macro_kind) != (self._golden.error_macro, int(self._golden.macro_error)):
                raise ContractError(
                    f"the error is {macro_kind} of macro {macro}, but must be {self._golden.macro_error.name} of "
                    f"{self._golden.error_macro}"
                )
        if not await self.read("STATUS", "error") or await self.read("STATUS", "done"):
            raise ContractError("STATUS.error must be set, and STATUS.done must not")

    def _compare(self, data: bytearray, expected: bytes) -> None:
        """Raise MismatchError unless the results are as expected."""
        size = SUM_BITS // 8
        if bytes(data) != expected:
            place = next((i for i, (a, b) in enumerate(zip(data, expected, strict=False)) if a != b), None)
            if place is None:
                raise MismatchError(f"{len(data)} bytes of results came, but {len(expected)} must")
            word = slice(place // size * size, place // size * size + size)
            values = (int.from_bytes(part[word], "little", signed=True) for part in (bytes(data), expected))
            raise MismatchError("result {} is {}, but must be {}".format(place // size, *values))
        self.results += len(expected) // size

    async def _carry_out(
        self, stimulus: AcceleratorStimulus, goes: Mapping[str, NextCycle], lasts: Mapping[str, Set[int]], limit: int
    ) -> tuple[bytearray, list[int]]:
        """Start the program, and move words until the interrupt comes, or so many cycles have passed."""
        for source in self._sources:
            words = getattr(stimulus, source.name)
            source.restart(words, goes.get(source.name, _at_once), lasts.get(source.name, frozenset()))
        self.registers.show_write(register("CONTROL").address, _value("CONTROL", start=1))
        for _ in range(self.registers.start_delay):
            await self._dut.clk.rising_edge
            self.registers.withdraw()
        for source in self._sources:
            source.step(-1)
        return await self._move(limit, goes.get("results", _at_once), until_interrupt=True)

    async def _move(self, limit: int, goes: NextCycle, *, until_interrupt: bool) -> tuple[bytearray, list[int]]:
        """Move words for so many cycles, the first of them being 0, or until the interrupt comes."""
        data = bytearray()
        packets: list[int] = []

        def take(part: bytes, last: bool, cycle: int) -> None:
            data.extend(part)
            if last:
                packets.append(len(data))

        self._sink.restart(take, goes)
        for cycle in range(limit):
            await self._dut.clk.rising_edge
            if cycle == 0:
                self.registers.withdraw()
            for source in self._sources:
                source.step(cycle)
            self._sink.step(cycle)
            self._monitor.step(cycle)
            self.cycles += 1
            # In cycle 0 it may still be that of the program before.
            if until_interrupt and cycle and level(self._dut.irq, cycle):
                break
        self._sink.pause()
        return data, packets


def _value(name: str, **fields: int) -> int:
    """A register's value of its fields."""
    places = {field.name: field.low for field in register(name).fields}
    return sum(value << places[field] for field, value in fields.items())


def _flags(count: int, places: Set[int]) -> NDArray[np.bool_]:
    flags = np.zeros(count, np.bool_)
    flags[sorted(places)] = True
    return flags
