"""Watches an accelerator: the pins of its macros, where runs begin and end, and its buses, where streams pause."""

from __future__ import annotations

import functools
from collections import deque
from dataclasses import replace
from typing import Any

from flexcim.accelerator.instructions import AcceleratorProgram, RunTiles
from flexcim.config.accelerator import AcceleratorConfig
from flexcim.macro.commands import Run
from flexcim_sim.bench.coverage.counts import Coverage
from flexcim_sim.bench.coverage.macro import Handshake, RunMonitor, paused_streams
from flexcim_sim.bench.coverage.model import SeenRun, coverage_axes, cross_of
from flexcim_sim.bench.ends.streams import ContractError

__all__ = ["AcceleratorMonitor", "probes"]


def probes(top: str) -> dict[str, tuple[str, ...]]:
    """The pins inside an accelerator that its monitor looks at, by Verilog module.

    Parameters
    ----------
    top : str
        The accelerator's module.
    """
    handshakes = (f"{stream}__{pin}" for stream in ("run", "activations", "results") for pin in ("valid", "ready"))
    return {f"{top}_macro": ("run__payload", *handshakes)}


class AcceleratorMonitor:
    """Counts the runs of each macro. Where their activations came from stands in the program alone, so the runs that
    a macro takes are held against those of the program, in their order.

    Parameters
    ----------
    dut : cocotb handle
        The accelerator.
    config : AcceleratorConfig
        Its configuration.
    coverage : Coverage
        Where to count.
    """

    def __init__(self, dut: Any, config: AcceleratorConfig, coverage: Coverage) -> None:
        self._coverage = coverage
        self._axes = coverage_axes(config)
        self._buses = [
            Handshake(name, getattr(dut, f"{bus}_tvalid"), getattr(dut, f"{bus}_tready"), into_design)
            for name, bus, into_design in (
                ("weights", "s_axis_weights", True),
                ("activations", "s_axis_activations", True),
                ("results", "m_axis_results", False),
            )
        ]
        self._macros = [
            RunMonitor(getattr(dut.core, f"macro_{index}"), config.macro, functools.partial(self._cover, index))
            for index in range(config.macros)
        ]
        self.restart()

    def restart(self) -> None:
        """Forget what is under way, as a reset does; nothing counts until a program is expected."""
        self._expected: list[deque[RunTiles]] | None = None
        for macro in self._macros:
            macro.restart()

    def expect(self, program: AcceleratorProgram) -> None:
        """A legal program has been written into the program memory and is to be carried out."""
        if self._expected is None:
            self._expected = [deque() for _ in self._macros]
        for step in program.carried_out():
            if isinstance(step, RunTiles):
                for index in step.macros:
                    self._expected[index].append(step)

    def step(self, cycle: int) -> None:
        """Look at the clock edge that ends a cycle."""
        if self._expected is not None:
            paused = paused_streams(self._buses, cycle)
            for macro in self._macros:
                macro.step(cycle, paused)

    def _cover(self, index: int, run: SeenRun) -> None:
        """Count a run of a macro.

        Raises
        ------
        ContractError
            If it is not the next one that the program has for this macro.
        """
        assert self._expected is not None, "nothing is watched before"
        queue = self._expected[index]
        tiles = queue.popleft() if queue else None
        if tiles is None or _command(tiles) != run.command:
            raise ContractError(f"macro {index} carried out {run.command}, but the program has {tiles}")
        source = "replay" if tiles.replay else "store" if tiles.store else "stream"
        run = replace(run, source=source)
        self._coverage.add(cross_of(self._axes, run))


def _command(tiles: RunTiles) -> Run:
    """What an instruction lets each of its macros do."""
    return Run(
        bank=tiles.bank,
        pattern=tiles.pattern,
        groups=tiles.groups,
        rows=tiles.rows,
        vectors=tiles.vectors,
        first_k=tiles.first_k,
        last_k=tiles.last_k,
        release=tiles.release,
    )
