"""Twin of the accelerator: carries out program images on macros (docs/architecture.md, section 7)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from flexcim.accelerator.instructions import INSTRUCTION_FIELDS, AcceleratorError, Opcode
from flexcim.config.accelerator import AcceleratorConfig
from flexcim.config.macro import ceil_div
from flexcim.errors import FlexCiMError
from flexcim.macro.commands import ErrorKind, Load
from flexcim_sim.golden.macro import GoldenMacro

__all__ = ["Executed", "GoldenAccelerator", "WordStream"]


@dataclass
class WordStream:
    """Words of an input stream, from the front.

    Parameters
    ----------
    words : ndarray of uint8, [words, bytes of a word]
        The data.
    last : ndarray of bool, [words], optional
        ``tlast`` of each; by default, none.
    taken : int
        Words that were taken.
    """

    words: NDArray[np.uint8]
    last: NDArray[np.bool_] | None = None
    taken: int = 0

    def take(self, name: str, count: int) -> tuple[NDArray[np.uint8], bool]:
        """The bits of the next words, lowest first, and whether a ``tlast`` stands inside of them.

        Raises
        ------
        FlexCiMError
            If there are fewer.
        """
        if self.taken + count > len(self.words):
            raise FlexCiMError(
                f"the program takes {count} more words of {name}, but {len(self.words) - self.taken} are left"
            )
        part = slice(self.taken, self.taken + count)
        inside = self.last is not None and bool(self.last[part][:-1].any())
        self.taken += count
        return np.unpackbits(self.words[part].reshape(-1), bitorder="little"), inside


@dataclass
class Executed:
    """What came out of a program.

    Parameters
    ----------
    results : ndarray of uint8
        The bytes of the result stream; after an error, those of the runs before the instruction at fault.
    packets : list of int
        Where in them each packet ends.
    """

    results: NDArray[np.uint8]
    packets: list[int]


@dataclass
class _Output:
    """Results on their way out."""

    parts: list[NDArray[np.uint8]] = field(default_factory=list)
    size: int = 0
    packets: list[int] = field(default_factory=list)

    def put(self, part: NDArray[np.uint8], *, end: bool) -> None:
        self.parts.append(part)
        self.size += part.size
        if end:
            self.packets.append(self.size)


class _RefusedError(Exception):
    """Ends a program with an error kind."""

    def __init__(self, kind: AcceleratorError) -> None:
        self.kind = kind


class GoldenAccelerator:
    """An accelerator after a reset.

    Parameters
    ----------
    config : AcceleratorConfig
        The accelerator.

    Attributes
    ----------
    error : AcceleratorError
        The sticky error.
    error_macro : int
        For `AcceleratorError.MACRO`: which.
    macro_error : ErrorKind
        Likewise: the macro's error.
    """

    def __init__(self, config: AcceleratorConfig) -> None:
        self.config = config
        self.error = AcceleratorError.NONE
        self.error_macro = 0
        self.macro_error = ErrorKind.NONE
        self._macros = [GoldenMacro(config.macro) for _ in range(config.macros)]
        self._loaded: set[tuple[int, int]] = set()  # macro and bank, in program order
        self._memory = np.zeros((config.activation_memory, config.macro.activation_port), np.int8)

    def execute(
        self, program: NDArray[np.uint32], weights: WordStream, activations: WordStream, *, entry: int = 0
    ) -> Executed:
        """Carry out a program.

        Parameters
        ----------
        program : ndarray of uint32, [instructions, 4]
            The program memory's image; behind it, nothing is known.
        weights, activations : WordStream
            The two input streams; what is taken is taken from them.
        entry : int
            Where to start.

        Raises
        ------
        FlexCiMError
            If the program waits for words that never come.
        """
        output = _Output()
        if not self.error:
            try:
                self._execute(program, weights, activations, entry, output)
            except _RefusedError as refused:
                self.error = refused.kind
        whole = np.concatenate(output.parts) if output.parts else np.zeros(0, np.uint8)
        return Executed(whole, output.packets)

    def _execute(
        self,
        program: NDArray[np.uint32],
        weights: WordStream,
        activations: WordStream,
        position: int,
        output: _Output,
    ) -> None:
        packet_open = False
        loop: tuple[int, int, int] | None = None  # first, last, and passes that are left
        while True:
            if position >= self.config.program_depth:
                raise _RefusedError(AcceleratorError.PROGRAM_END)
            op, fields = self._fields(program[position])
            if op == Opcode.END:
                if loop:
                    raise _RefusedError(AcceleratorError.LOOP)
                if packet_open:
                    raise _RefusedError(AcceleratorError.PACKET)
                return
            if op == Opcode.LOAD:
                self._load(fields, weights)
            elif op == Opcode.RUN:
                self._run(fields, activations, output)
                if fields["last_k"]:
                    packet_open = not fields["end_packet"]
            elif loop or not fields["length"] or not fields["count"]:
                raise _RefusedError(AcceleratorError.LOOP)
            else:
                loop = position + 1, position + fields["length"], fields["count"]
                position += 1
                continue
            position, loop = self._next(position, loop)

    @staticmethod
    def _next(position: int, loop: tuple[int, int, int] | None) -> tuple[int, tuple[int, int, int] | None]:
        if loop is None or position != loop[1]:
            return position + 1, loop
        first, last, left = loop
        return (first, (first, last, left - 1)) if left > 1 else (position + 1, None)

    @staticmethod
    def _fields(words: NDArray[np.uint32]) -> tuple[Opcode, dict[str, int]]:
        """The operation and the fields of an instruction."""
        instruction = sum(int(word) << 32 * index for index, word in enumerate(words))
        if instruction & 15 not in set(Opcode):
            raise _RefusedError(AcceleratorError.INSTRUCTION)
        op, rest, fields = Opcode(instruction & 15), instruction, {}
        for name, (start, width) in INSTRUCTION_FIELDS[op].items():
            fields[name] = instruction >> start & ((1 << width) - 1)
            rest &= ~(((1 << width) - 1) << start)
        if rest:
            raise _RefusedError(AcceleratorError.INSTRUCTION)
        return op, fields

    # -- loads ---------------------------------------------------------------------------------------------------------

    def _load(self, fields: Mapping[str, int], weights: WordStream) -> None:
        config, rows = self.config, fields["rows"]
        if fields["macro"] >= config.macros:
            raise _RefusedError(AcceleratorError.MACROS)
        if not fields["words"]:
            raise _RefusedError(AcceleratorError.WORDS)
        place = fields["macro"], fields["bank"]
        if fields["bank"] >= config.macro.banks or place in self._loaded:
            raise _RefusedError(AcceleratorError.BANK)
        self._loaded.add(place)
        command = Load(bank=fields["bank"], rows=rows).payload()
        shape = rows, config.macro.sub_macros, config.macro.columns
        if not 1 <= rows <= config.macro.rows:
            nothing = np.zeros(shape, np.int8)
            self._macros[fields["macro"]].load(command, nothing, nothing.astype(np.uint8))
            self._check_macros()
        size = int(np.prod(shape)) * config.macro.cell_bits
        if fields["words"] != ceil_div(size, config.weight_bus):
            raise _RefusedError(AcceleratorError.WORDS)
        bits, ended = weights.take("weights", fields["words"])
        if ended:
            raise _RefusedError(AcceleratorError.WEIGHTS_LAST)
        cells = bits[:size].reshape(-1, config.macro.cell_bits)
        values = _signed(cells[:, : config.macro.weight_bits]).reshape(shape)
        offsets = np.packbits(cells[:, config.macro.weight_bits :], axis=1, bitorder="little")
        if not config.macro.index_bits:
            offsets = np.zeros((len(cells), 1), np.uint8)
        self._macros[fields["macro"]].load(command, values, offsets[:, 0].reshape(shape))

    # -- runs ----------------------------------------------------------------------------------------------------------

    def _run(self, fields: Mapping[str, int], activations: WordStream, output: _Output) -> None:
        config = self.config
        if not fields["macros"] or fields["macros"] >> config.macros:
            raise _RefusedError(AcceleratorError.MACROS)
        memory = fields["replay"] or fields["store"]
        outside = fields["address"] >= config.activation_memory if memory else fields["address"]
        if (fields["replay"] and fields["store"]) or outside:
            raise _RefusedError(AcceleratorError.MEMORY)
        if bool(fields["words"]) == bool(fields["replay"]):
            raise _RefusedError(AcceleratorError.WORDS)
        chosen = [index for index in range(config.macros) if fields["macros"] >> index & 1]
        places = {(index, fields["bank"]) for index in chosen}
        if not places <= self._loaded:
            raise _RefusedError(AcceleratorError.BANK)
        if fields["release"]:
            self._loaded -= places
        beats = self._beats(fields, activations)
        command = self._command(fields)
        answers = [self._macros[index].run(command, beats) for index in chosen]
        self._check_macros()
        if fields["last_k"]:
            results = [part for part in answers if part is not None]
            rounded = -results[0].shape[1] % config.macro.result_port
            padded = [np.pad(part, ((0, 0), (0, rounded))) for part in results]
            whole = np.stack(padded, axis=1).astype("<i4")
            output.put(whole.view(np.uint8).reshape(-1), end=bool(fields["end_packet"]))

    @staticmethod
    def _command(fields: Mapping[str, int]) -> int:
        """The payload of the macros' ``run`` stream."""
        low = fields["bank"] | fields["pattern"] << 4 | fields["groups"] << 12 | fields["rows"] << 16
        flags = fields["first_k"] | fields["last_k"] << 1 | fields["release"] << 3
        return low | fields["vectors"] << 32 | flags << 48

    def _beats(self, fields: Mapping[str, int], activations: WordStream) -> NDArray[np.int8]:
        """The run's beats, int8 [V, beats, P]."""
        config, macro = self.config, self.config.macro
        count = fields["vectors"] * fields["beats"]
        shape = fields["vectors"], fields["beats"], macro.activation_port
        expected = self._expected_beats(fields)
        if fields["beats"] != expected:
            # The macros refuse the command or, if that is right, a vector whose end is elsewhere.
            nothing = np.zeros((fields["vectors"], expected, macro.activation_port), np.int8)
            for index in range(config.macros):
                if fields["macros"] >> index & 1:
                    self._macros[index].run(self._command(fields), nothing)
            self._check_macros()
            self.error_macro = (fields["macros"] & -fields["macros"]).bit_length() - 1
            self.macro_error = ErrorKind.ACTIVATIONS_LAST
            raise _RefusedError(AcceleratorError.MACRO)
        place = slice(fields["address"], fields["address"] + count)
        if (fields["replay"] or fields["store"]) and place.stop > config.activation_memory:
            raise _RefusedError(AcceleratorError.MEMORY)
        if fields["replay"]:
            return self._memory[place].reshape(shape)
        size = count * config.activation_beat_bits
        if fields["words"] != ceil_div(size, config.activation_bus):
            raise _RefusedError(AcceleratorError.WORDS)
        bits, ended = activations.take("activations", fields["words"])
        if ended:
            raise _RefusedError(AcceleratorError.ACTIVATIONS_LAST)
        beats = _signed(bits[:size].reshape(-1, macro.activation_bits)).reshape(shape)
        if fields["store"]:
            self._memory[place] = beats.reshape(count, -1)
        return beats

    def _expected_beats(self, fields: Mapping[str, int]) -> int:
        """The beats of a vector; 0 for commands that have none."""
        macro, groups = self.config.macro, 1 << fields["groups"]
        if fields["pattern"] >= len(macro.patterns) or not 1 <= fields["rows"] <= macro.rows or not fields["vectors"]:
            return 0
        pattern = macro.patterns[fields["pattern"]]
        if groups not in macro.legal_groups(pattern):
            return 0
        return macro.vector_beats(macro.window(pattern, groups), fields["rows"])

    def _check_macros(self) -> None:
        """End the program if a macro has refused something."""
        for index, macro in enumerate(self._macros):
            if macro.error:
                self.error_macro, self.macro_error = index, macro.error
                raise _RefusedError(AcceleratorError.MACRO)


def _signed(bits: NDArray[np.uint8]) -> NDArray[np.int8]:
    """Two's complement numbers of bits [N, width], lowest first."""
    width = bits.shape[1]
    values = np.packbits(bits, axis=1, bitorder="little")[:, 0].astype(np.int16)
    return (values - ((values >> (width - 1) & 1) << width)).astype(np.int8)
