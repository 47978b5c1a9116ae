"""What the golden model says about a stimulus, and the comparison of result beats with it, bit by bit."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from flexcim.config.macro import SUM_BITS, MacroConfig
from flexcim.errors import FlexCiMError
from flexcim.macro.beats import result_elements
from flexcim.macro.commands import LOAD_FIELDS, RUN_FIELDS, ErrorKind, Run
from flexcim_sim.bench.stimuli.macro import LoadItem, Stimulus
from flexcim_sim.golden.macro import GoldenMacro, command_fields, load_error

__all__ = ["Checker", "Expectation", "MismatchError", "expect"]


class MismatchError(FlexCiMError):
    """Results that differ from the golden model's; the message names run, vector, output and both values."""


@dataclass(frozen=True)
class ResultRun:
    """A run whose results leave.

    Parameters
    ----------
    index : int
        Its place among the runs.
    first_vector : int
        Its first vector, counted over all runs.
    loads : int
        How many loads, counted from the first, its results depend on.
    results : ndarray of int32, [V, G * C]
        The results.
    """

    index: int
    first_vector: int
    loads: int
    results: NDArray[np.int32]


@dataclass(frozen=True)
class Expectation:
    """What must come out of a macro.

    Parameters
    ----------
    config : MacroConfig
        The macro.
    runs : list of ResultRun
        The runs before the first error whose results leave.
    error : ErrorKind
        The sticky error in the end.
    """

    config: MacroConfig
    runs: list[ResultRun]
    error: ErrorKind

    def payloads(self) -> list[int]:
        """All beats of the result stream."""
        return [payload for run in self.runs for payload in result_payloads(self.config, run.results)]

    def beats(self, vectors: int, loads: int) -> int:
        """Result beats that must come when the macro took this many whole vectors and loads before it stopped."""
        beats = 0
        for run in self.runs:
            if run.loads <= loads:
                count = min(len(run.results), max(0, vectors - run.first_vector))
                beats += count * self.config.result_beats(run.results.shape[1] // self.config.columns)
        return beats


def expect(stimulus: Stimulus) -> Expectation:
    """Ask the golden model what a stimulus gives. It holds one error at most, or one each of a load and a run."""
    config, error = stimulus.config, ErrorKind.NONE
    macro = GoldenMacro(config)
    waiting: dict[int, deque[int]] = {bank: deque() for bank in range(config.banks)}
    for index, load in enumerate(stimulus.loads):
        error = _load_error(config, load)
        if error:
            break
        macro.load(load.payload, load.image.weights, load.image.offsets, load.image.constants)
        waiting[command_fields(load.payload, LOAD_FIELDS)["bank"]].append(index)

    resident: dict[int, int] = {}
    runs: list[ResultRun] = []
    vectors = loads = 0
    for index, run in enumerate(stimulus.runs):
        bank = command_fields(run.payload, RUN_FIELDS)["bank"]
        if bank in waiting and bank not in resident:
            if not waiting[bank]:
                break  # it waits for a load that was refused
            resident[bank] = waiting[bank].popleft()
        results = macro.run(run.payload, run.beats)
        if macro.error:
            error = error or macro.error
            break
        loads = max(loads, resident[bank] + 1)
        if run.wrong_last is not None:
            error = ErrorKind.ACTIVATIONS_LAST
            if results is not None:
                results = results[: run.wrong_last // run.beats.shape[1]]
        if results is not None:
            runs.append(ResultRun(index, vectors, loads, results))
        if error is ErrorKind.ACTIVATIONS_LAST:
            break
        vectors += len(run.beats)
        if Run.from_payload(config, run.payload).release:
            del resident[bank]
    return Expectation(config, runs, error)


def _load_error(config: MacroConfig, load: LoadItem) -> ErrorKind:
    if load.wrong_last is not None:
        return ErrorKind.WEIGHTS_LAST
    if load.wrong_last_constant is not None:
        return ErrorKind.CONSTANTS_LAST
    return load_error(config, command_fields(load.payload, LOAD_FIELDS))


def result_payloads(config: MacroConfig, results: NDArray[np.int32]) -> list[int]:
    """Payloads of the result beats of vectors [V, G * C], ``last`` on each vector's last."""
    vectors, outputs = results.shape
    beats = config.result_beats(outputs // config.columns)
    elements = np.zeros((vectors, beats * config.result_port), "<i4")
    elements[:, :outputs] = results
    words = elements.reshape(vectors * beats, -1)
    last = 1 << (config.result_port * SUM_BITS)
    payloads = [int.from_bytes(row.tobytes(), "little") for row in words]
    payloads[beats - 1 :: beats] = [payload | last for payload in payloads[beats - 1 :: beats]]
    return payloads


class Checker:
    """Compares result beats with what was expected, as they come.

    Parameters
    ----------
    stimulus : Stimulus
        What goes in.
    expectation : Expectation
        What must come out.

    strict : bool
        Whether a wrong result is an error at once, or only counted.

    Attributes
    ----------
    payloads : list of int
        The beats that came.
    mismatches : int
        Beats among them that were wrong.
    """

    def __init__(self, stimulus: Stimulus, expectation: Expectation, *, strict: bool = True) -> None:
        self._stimulus = stimulus
        self._expectation = expectation
        self._expected = expectation.payloads()
        self._strict = strict
        self.payloads: list[int] = []
        self.mismatches = 0

    @property
    def beats(self) -> int:
        """Beats that came."""
        return len(self.payloads)

    @property
    def complete(self) -> bool:
        """Whether all that was expected has come."""
        return self.beats == len(self._expected)

    @property
    def progress(self) -> str:
        """How far the results are, in words."""
        return f"results {self.beats}/{len(self._expected)}"

    @property
    def results(self) -> int:
        """Results of whole vectors that were compared, each a number of 32 bits."""
        left, results = self.beats, 0
        for run in self._expectation.runs:
            vectors = min(len(run.results), left // self._vector_beats(run))
            results += vectors * run.results.shape[1]
            left -= vectors * self._vector_beats(run)
        return results

    def take(self, payload: int, cycle: int) -> None:
        """Compare the next beat.

        Raises
        ------
        MismatchError
            If it is wrong and the checker is strict, or if it is one too many.
        """
        if self.complete:
            raise MismatchError(f"cycle {cycle}: a result came after the last one that was expected")
        if payload != self._expected[self.beats]:
            if self._strict:
                raise MismatchError(f"cycle {cycle}: {self._describe(payload)}")
            self.mismatches += 1
        self.payloads.append(payload)

    def _describe(self, payload: int) -> str:
        config = self._expectation.config
        elements, last = result_elements(config, [payload, self._expected[self.beats]])
        run, vector, beat = self._place()
        command = Run.from_payload(config, self._stimulus.runs[run.index].payload)
        where = f"run {run.index} ({command.pattern}, groups {command.groups}), vector {vector}"
        wrong = np.flatnonzero(elements[0] != elements[1])
        if not len(wrong):
            return f"{where}: `last` is {bool(last[0])} on beat {beat}, but must be {bool(last[1])}"
        first = int(wrong[0])
        return (
            f"{where}: output {beat * config.result_port + first} is {elements[0, first]}, but must be "
            f"{elements[1, first]} ({len(wrong)} of {config.result_port} results of the beat differ)"
        )

    def _vector_beats(self, run: ResultRun) -> int:
        config = self._expectation.config
        return config.result_beats(run.results.shape[1] // config.columns)

    def _place(self) -> tuple[ResultRun, int, int]:
        """The run, its vector and the vector's beat that the next beat belongs to."""
        beat = self.beats
        for run in self._expectation.runs:
            beats = self._vector_beats(run)
            if beat < beats * len(run.results):
                return run, *divmod(beat, beats)
            beat -= beats * len(run.results)
        raise AssertionError("only asked while results are expected")
