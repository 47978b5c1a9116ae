"""What is put into the macro after a reset: commands with their data, and the payloads of its input streams."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from flexcim.config.macro import MacroConfig, ceil_div
from flexcim.macro.beats import (
    activation_payload_bits,
    activation_payloads,
    constant_beats,
    constant_payload_bits,
    constant_payloads,
    weight_beats,
    weight_payload_bits,
    weight_payloads,
)
from flexcim.macro.commands import LOAD_FIELDS, Load, Run
from flexcim.macro.program import LoadStep, Program, RunStep
from flexcim_sim.golden.macro import command_fields

__all__ = ["Image", "LoadItem", "RunItem", "Stimulus", "with_fields"]


@dataclass(frozen=True)
class Image:
    """What a load brings.

    Parameters
    ----------
    weights, offsets : ndarray of int8 and of uint8, [rows, S, C]
        The cells.
    constants : pair of ndarray of uint16 and of uint8, [outputs], optional
        The requantizer's multipliers and shifts.
    """

    weights: NDArray[np.int8]
    offsets: NDArray[np.uint8]
    constants: tuple[NDArray[np.uint16], NDArray[np.uint8]] | None = None


@dataclass(frozen=True)
class LoadItem:
    """A load command and what follows it.

    Parameters
    ----------
    payload : int
        The command, legal or not.
    image : Image
        The tile.
    wrong_last, wrong_last_constant : int, optional
        A beat of the weights, of the constants, whose ``last`` is inverted.
    """

    payload: int
    image: Image
    wrong_last: int | None = None
    wrong_last_constant: int | None = None


@dataclass(frozen=True)
class RunItem:
    """A run command and what follows it.

    Parameters
    ----------
    payload : int
        The command, legal or not.
    beats : ndarray of int8, [V, beats, P]
        Activation beats of the vectors, unused elements included.
    wrong_last : int, optional
        A beat, counted over all vectors, whose ``last`` is inverted.
    """

    payload: int
    beats: NDArray[np.int8]
    wrong_last: int | None = None


@dataclass
class Stimulus:
    """The loads and the runs, each in their order.

    Parameters
    ----------
    config : MacroConfig
        The macro.
    loads : list of LoadItem
        The loads.
    runs : list of RunItem
        The runs.
    """

    config: MacroConfig
    loads: list[LoadItem] = field(default_factory=list)
    runs: list[RunItem] = field(default_factory=list)

    def add_load(self, bank: int, image: Image) -> None:
        """Add a legal load of all the rows of an image."""
        command = Load(bank=bank, rows=len(image.weights), constants=image.constants is not None)
        self.loads.append(LoadItem(command.payload(), image))

    def add_run(self, command: Run, beats: NDArray[np.int8]) -> None:
        """Add a legal run, with its activation beats [V, beats, P]."""
        self.runs.append(RunItem(command.payload(self.config), beats))

    def whole_vectors(self, beats: int) -> int:
        """Vectors that are whole, and ended as they should, after so many activation beats were taken."""
        vectors = 0
        for item in self.runs:
            count, per_vector = item.beats.shape[:2]
            whole = min(count, beats // per_vector)
            if item.wrong_last is not None:
                whole = min(whole, item.wrong_last // per_vector)
            vectors += whole
            if whole < count:
                break
            beats -= count * per_vector
        return vectors

    def whole_loads(self, weights: int, constants: int) -> int:
        """Loads that are whole after so many beats of weights and of constants were taken."""
        for index, item in enumerate(self.loads):
            weights -= self.config.weight_beats(len(item.image.weights))
            if item.image.constants is not None:
                constants -= ceil_div(len(item.image.constants[0]), self.config.result_port)
            if min(weights, constants) < 0:
                return index
        return len(self.loads)

    @property
    def program(self) -> Program:
        """The commands, which must be legal, as the cycle model takes them."""
        loads = []
        for index, item in enumerate(self.loads):
            fields = command_fields(item.payload, LOAD_FIELDS)
            command = Load(bank=fields["bank"], rows=fields["rows"], constants=bool(fields["constants"]))
            constants = item.image.constants
            loads.append(LoadStep(command, index, 0 if constants is None else len(constants[0])))
        return Program((*loads, *(RunStep(Run.from_payload(self.config, item.payload), 0) for item in self.runs)))

    def payloads(self) -> dict[str, list[int]]:
        """The payloads of every input stream that the macro has, beat by beat."""
        streams: dict[str, list[int]] = {
            "load": [item.payload for item in self.loads],
            "run": [item.payload for item in self.runs],
            "weights": [],
            "activations": [],
        }
        if self.config.requantizer:
            streams["constants"] = []
        for item in self.loads:
            image = item.image
            beats = weight_payloads(self.config, *weight_beats(self.config, image.weights, image.offsets))
            streams["weights"] += _invert_last(beats, item.wrong_last, weight_payload_bits(self.config))
            if image.constants is not None:
                beats = constant_payloads(self.config, *constant_beats(self.config, *image.constants))
                streams["constants"] += _invert_last(
                    beats, item.wrong_last_constant, constant_payload_bits(self.config)
                )
        for run in self.runs:
            beats = activation_payloads(self.config, run.beats)
            streams["activations"] += _invert_last(beats, run.wrong_last, activation_payload_bits(self.config))
        return streams


def _invert_last(payloads: list[int], beat: int | None, bits: int) -> list[int]:
    if beat is not None:
        payloads[beat] ^= 1 << (bits - 1)  # `last` is the top bit of every payload
    return payloads


def with_fields(payload: int, layout: Mapping[str, int], **values: int) -> int:
    """A command's payload with some raw fields replaced, whether or not it is legal then.

    Parameters
    ----------
    payload : int
        The command.
    layout : mapping of str to int
        ``LOAD_FIELDS`` or ``RUN_FIELDS``.
    **values : int
        New values by field.
    """
    fields = command_fields(payload, layout) | values
    position, changed = 0, 0
    for name, width in layout.items():
        changed |= (fields[name] & ((1 << width) - 1)) << position
        position += width
    return changed
