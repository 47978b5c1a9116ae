"""A driver of the accelerator in simulated RTL: programs through AXI4-Lite, images and results through AXI4-Stream."""

from __future__ import annotations

from types import TracebackType

import numpy as np
from numpy.typing import NDArray

from flexcim.accelerator.instructions import AcceleratorError
from flexcim.accelerator.registers import register
from flexcim.config.accelerator import AcceleratorConfig
from flexcim.errors import FlexCiMError
from flexcim_sim.build.library import Library
from flexcim_sim.runtime.simulation import Simulation

__all__ = ["DriverError", "SimulatedAccelerator"]

_ANSWER_LIMIT = 1000
"""Cycles in which a register access must have been answered."""


class DriverError(FlexCiMError):
    """An accelerator that refused something or did not finish; the message says what."""


class SimulatedAccelerator:
    """An accelerator in this process, after a reset.

    Parameters
    ----------
    config : AcceleratorConfig
        The accelerator, whose registers are behind AXI4-Lite.
    library : Library
        What `flexcim_sim.build.library.build_accelerator_library` built of it.

    Attributes
    ----------
    cycles : int
        The sum of CYCLES over all programs.

    Raises
    ------
    DriverError
        If the registers are behind another bus.
    """

    def __init__(self, config: AcceleratorConfig, library: Library) -> None:
        if config.register_bus != "axi4-lite":
            raise DriverError(
                f"the simulated accelerator needs register_bus = 'axi4-lite', not {config.register_bus!r}"
            )
        self.config = config
        self.cycles = 0
        self._fields = {stream.name: [name for name, _ in stream.fields] for stream in library.streams}
        self._widths = {name: -(-width // 32) for stream in library.streams for name, width in stream.fields}
        self._simulation = Simulation(library)
        self._loaded = np.zeros((0, 4), np.uint32)
        self.write("INTERRUPT", 0b11)  # the harness stops at irq

    def __enter__(self) -> SimulatedAccelerator:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._simulation.close()

    @property
    def elapsed(self) -> int:
        """All cycles that were simulated, those of register accesses among them."""
        return self._simulation.cycle

    def pause(self, chances: dict[str, float], seed: int) -> None:
        """Let the AXI4-Streams pause at random; see `Simulation.pause`."""
        self._simulation.pause(chances, seed)

    # -- registers -----------------------------------------------------------------------------------------------------

    def write(self, name: str, *values: int) -> None:
        """Write values into a register, one after the other.

        Raises
        ------
        DriverError
            If the accelerator does not answer, or refuses.
        """
        count = len(values)
        self._offer("s_axil_aw", count, {"s_axil_awaddr": np.full((count, 1), register(name).address, np.uint32)})
        data = np.array(values, np.uint32).reshape(-1, 1)
        self._offer("s_axil_w", count, {"s_axil_wdata": data, "s_axil_wstrb": np.full((count, 1), 15, np.uint32)})
        answers = self._await("s_axil_b", count, f"a write of {name}")
        if answers["s_axil_bresp"].any():
            raise DriverError(f"the accelerator refused a write of {name}")

    def read(self, name: str) -> int:
        """Read a register.

        Raises
        ------
        DriverError
            If the accelerator does not answer, or refuses.
        """
        self._offer("s_axil_ar", 1, {"s_axil_araddr": np.full((1, 1), register(name).address, np.uint32)})
        answers = self._await("s_axil_r", 1, f"a read of {name}")
        if answers["s_axil_rresp"].any():
            raise DriverError(f"the accelerator refused a read of {name}")
        return int(answers["s_axil_rdata"][0, 0])

    def _offer(self, stream: str, count: int, ports: dict[str, NDArray[np.uint32]]) -> None:
        """Put beats behind those that wait to enter; ports that are not named are 0."""
        parts = [ports.get(name, np.zeros((count, self._widths[name]), np.uint32)) for name in self._fields[stream]]
        self._simulation.push(stream, np.concatenate(parts, axis=1))

    def _taken(self, stream: str) -> dict[str, NDArray[np.uint32]]:
        """All beats that came out, by port."""
        beats = self._simulation.pull(stream)
        edges = np.cumsum([self._widths[name] for name in self._fields[stream]])[:-1]
        return dict(zip(self._fields[stream], np.split(beats, edges, axis=1), strict=True))

    def _await(self, stream: str, count: int, what: str) -> dict[str, NDArray[np.uint32]]:
        left = count * _ANSWER_LIMIT
        while self._simulation.waiting(stream) < count and left:
            left -= self._simulation.run(left, stream, count)  # one cycle only while irq is high
        if self._simulation.waiting(stream) >= count:
            return self._taken(stream)
        raise DriverError(f"the accelerator does not answer {what}")

    # -- programs ------------------------------------------------------------------------------------------------------

    def execute(
        self, program: NDArray[np.uint32], weights: NDArray[np.uint8], activations: NDArray[np.uint8], limit: int
    ) -> NDArray[np.uint8]:
        """Carry out a program.

        Parameters
        ----------
        program : uint32 [instructions, 4]
            The program memory's image. One that is there already is not written again.
        weights, activations : uint8 [words, bytes of a word]
            The words that the program takes.
        limit : int
            Cycles in which it must have ended.

        Returns
        -------
        uint8 [bytes]
            The bytes of the results, those that ``tkeep`` marks.

        Raises
        ------
        DriverError
            If the program ends with an error or not at all, or leaves words.
        """
        if not np.array_equal(program, self._loaded):
            self.write("PROGRAM_ADDRESS", 0)
            self.write("PROGRAM_DATA", *program.reshape(-1).tolist())
            self._loaded = program.copy()
        for name, words in (("weights", weights), ("activations", activations)):
            data = np.ascontiguousarray(words).view("<u4").astype(np.uint32, copy=False)
            if len(data):
                self._offer(f"s_axis_{name}", len(data), {f"s_axis_{name}_tdata": data})
        self.write("PROGRAM_ENTRY", 0)
        self.write("CONTROL", 0b001)
        self._simulation.run(limit)
        self._check(limit)
        self.cycles += self.read("CYCLES")
        self.write("CONTROL", 0b100)  # clears done, and so irq
        beats = self._taken("m_axis_results")
        results, keep = (_bytes(beats[f"m_axis_results_t{port}"]) for port in ("data", "keep"))
        kept = np.unpackbits(keep, axis=1, count=results.shape[1], bitorder="little").astype(np.bool_)
        return results[kept]

    def _check(self, limit: int) -> None:
        """Raise DriverError unless the program is done, and has taken all that it was given."""
        status = self.read("STATUS")
        if not status & 0b010:
            error, position = self.read("ERROR"), self.read("POSITION")
            kind = AcceleratorError(error & 15).name.lower()
            raise DriverError(f"not done after {limit} cycles: error {kind}, at instruction {position}")
        for name in ("weights", "activations"):
            left = self._simulation.waiting(f"s_axis_{name}")
            if left:
                raise DriverError(f"the program is done, but {left} words of {name} are left")


def _bytes(words: NDArray[np.uint32]) -> NDArray[np.uint8]:
    """The bytes of words [beats, words], lowest first: uint8 [beats, 4 * words]."""
    data = np.frombuffer(words.astype("<u4").tobytes(), np.uint8)
    return data.reshape(len(words), 4 * words.shape[1])
