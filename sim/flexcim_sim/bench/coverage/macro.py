"""Watches a macro's pins and tells which runs it carried out, and what paused meanwhile.

Nothing here knows the stimulus: a run is what the macro took from its ``run`` stream, it has begun when its first
activation beat was taken, and it is over with its last result; one without results, with its last activation beat.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from flexcim.config.macro import MacroConfig
from flexcim.macro.commands import RUN_FIELDS, Run
from flexcim_sim.bench.coverage.model import SeenRun
from flexcim_sim.bench.ends.streams import ContractError, level
from flexcim_sim.golden.macro import command_fields

__all__ = ["Handshake", "RunMonitor", "paused_streams"]


@dataclass(frozen=True)
class Handshake:
    """The pins of a stream's handshake.

    Parameters
    ----------
    name : str
        The stream, as coverage names it.
    valid, ready : cocotb handle
        The pins.
    into_design : bool
        Whether the design takes its payloads.
    """

    name: str
    valid: Any
    ready: Any
    into_design: bool

    @classmethod
    def of(cls, dut: Any, name: str) -> Handshake:
        """That of a macro's stream."""
        valid, ready = getattr(dut, f"{name}__valid"), getattr(dut, f"{name}__ready")
        return cls(name, valid, ready, into_design=name != "results")

    def moves(self, cycle: int) -> bool:
        """Whether a payload is taken at the clock edge that ends this cycle."""
        return level(self.valid, cycle) and level(self.ready, cycle)

    def pauses(self, cycle: int) -> bool:
        """Whether the design would go on, but the far end does not: no payload for it, or its own not taken."""
        design, far_end = (self.ready, self.valid) if self.into_design else (self.valid, self.ready)
        return level(design, cycle) and not level(far_end, cycle)


def paused_streams(handshakes: Iterable[Handshake], cycle: int) -> list[str]:
    """The streams that pause in a cycle."""
    return [handshake.name for handshake in handshakes if handshake.pauses(cycle)]


@dataclass
class _OpenRun:
    """A run that was taken and is not over."""

    payload: int
    command: Run | None = None  # from its first beat on
    beats_left: int = 0
    results_left: int = 0
    stalled: set[str] = field(default_factory=set)
    over: bool = False


class RunMonitor:
    """Watches the ``run``, ``activations`` and ``results`` pins of a macro.

    The runs of an accumulation are told of together when the last of them is over, because only then their K tiles
    are known. What a reset breaks off, or an error, is never told.

    Parameters
    ----------
    dut : cocotb handle
        The macro, on its own or in an accelerator.
    config : MacroConfig
        Its configuration.
    tell : callable
        Gets each run that was carried out.
    """

    def __init__(self, dut: Any, config: MacroConfig, tell: Callable[[SeenRun], None]) -> None:
        self._config = config
        self._tell = tell
        self._run, self._activations, self._results = (
            Handshake.of(dut, name) for name in ("run", "activations", "results")
        )
        self._payload = dut.run__payload
        self.restart()

    def restart(self) -> None:
        """Forget what is under way, as a reset does."""
        self._open: deque[_OpenRun] = deque()
        self._accumulation: list[_OpenRun] = []

    def step(self, cycle: int, paused: Collection[str]) -> None:
        """Look at the clock edge that ends a cycle.

        Parameters
        ----------
        cycle : int
            The cycle, for messages.
        paused : collection of str
            The streams that pause in it.

        Raises
        ------
        ContractError
            If a beat or a result moves that belongs to no legal run.
        """
        if self._activations.moves(cycle):
            self._take_beat(cycle)
        if self._results.moves(cycle):
            self._take_result(cycle)
        for run in self._open:
            if run.command and not run.over:
                run.stalled.update(paused)
                run.over = not run.beats_left + run.results_left
        self._close()
        if self._run.moves(cycle):  # with the last beat of the run before, so it has none in this cycle
            self._open.append(_OpenRun(int(str(self._payload.value), 2)))

    def _take_beat(self, cycle: int) -> None:
        run = next((run for run in self._open if run.command is None or run.beats_left), None)
        if run is None:
            raise ContractError(f"cycle {cycle}: a beat of activations was taken without a run")
        if run.command is None:
            self._begin(run, cycle)
        run.beats_left -= 1

    def _begin(self, run: _OpenRun, cycle: int) -> None:
        config, fields = self._config, command_fields(run.payload, RUN_FIELDS)
        if (
            fields["pattern"] >= len(config.patterns)
            or (config.patterns[fields["pattern"]], 1 << fields["groups"]) not in config.modes
        ):
            raise ContractError(f"cycle {cycle}: activations were taken for a run that is illegal ({fields})")
        command = run.command = Run.from_payload(config, run.payload)
        window = config.window(command.pattern, command.groups)
        run.beats_left = command.vectors * config.vector_beats(window, command.rows)
        if command.last_k:
            run.results_left = command.vectors * config.result_beats(command.groups)

    def _take_result(self, cycle: int) -> None:
        run = next((run for run in self._open if run.results_left), None)
        if run is None:
            raise ContractError(f"cycle {cycle}: a result was taken that belongs to no run")
        run.results_left -= 1

    def _close(self) -> None:
        """Take the runs that are over off, in their order, and tell of them when their accumulation is."""
        while self._open and self._open[0].over:
            run = self._open.popleft()
            self._accumulation.append(run)
            if run.command and run.command.last_k:
                self._tell_all(self._accumulation)
                self._accumulation = []

    def _tell_all(self, runs: Sequence[_OpenRun]) -> None:
        for k_tile, run in enumerate(runs):
            assert run.command, "it has begun"
            seen = SeenRun(command=run.command, k_tile=k_tile, k_tiles=len(runs), stalled=frozenset(run.stalled))
            self._tell(seen)
