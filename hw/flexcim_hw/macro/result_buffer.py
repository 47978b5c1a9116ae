"""The elastic edge of the results: entries that the rigid pipeline fills, and the beats that leave."""

from __future__ import annotations

from collections.abc import Mapping

from amaranth.hdl import Array, C, Cat, Module, Mux, Signal, Value, unsigned
from amaranth.lib import wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from flexcim.config.macro import SUM_BITS, MacroConfig
from flexcim.macro.cycles import result_entries
from flexcim_hw.common.shared_modules import index_shape, place
from flexcim_hw.macro.merging import max_groups

__all__ = ["ResultBuffer", "ResultLane"]


class ResultLane(wiring.Component):
    """What one element of the beats carries: of each entry the outputs e, e + result_port, e + 2 * result_port, ...

    Latency from a write is one cycle (`latency`), and there may be one each cycle (`interval`); the element of an entry
    and beat is combinational.

    Parameters
    ----------
    config : MacroConfig
        The instance.

    Members
    -------
    write, newest, results : In
        Enable, entry, and the lane's outputs of all beats, those of beat 0 lowest.
    oldest, beat, used : In
        Entry and beat to read, and whether the beat has an output for this lane; otherwise the element is 0.
    element : Out(32)
        The element.
    """

    latency = 1
    interval = 1

    def __init__(self, config: MacroConfig) -> None:
        self._beats = config.result_beats(max_groups(config))
        self._entries = result_entries(config)
        super().__init__(
            {
                "write": In(1),
                "newest": In(index_shape(self._entries)),
                "results": In(self._beats * SUM_BITS),
                "oldest": In(index_shape(self._entries)),
                "beat": In(index_shape(self._beats)),
                "used": In(1),
                "element": Out(SUM_BITS),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.entries = memory = Memory(shape=unsigned(len(self.results)), depth=self._entries, init=[])
        write_port, read_port = memory.write_port(), memory.read_port(domain="comb")
        beats = Array(read_port.data.word_select(beat, SUM_BITS) for beat in range(self._beats))
        m.d.comb += [
            write_port.en.eq(self.write),
            write_port.addr.eq(self.newest),
            write_port.data.eq(self.results),
            read_port.addr.eq(self.oldest),
            self.element.eq(Mux(self.used, beats[self.beat], 0)),
        ]
        return m


class ResultBuffer(wiring.Component):
    """F entries, each a vector's results with its number of groups.

    The sequencer takes an entry for a vector before it starts, so a write always finds room. Latency from a write to
    the first beat is one cycle (`latency`); a vector leaves in as many cycles as it has beats (`interval`), without a
    gap to the next.

    Parameters
    ----------
    config : MacroConfig
        The instance.

    Members
    -------
    write : In(1)
        A vector's results are there.
    results : In(C * max_groups * 32)
        The results of each column's output groups, column 0 and in it group 0 lowest.
    tag : In(1 + bank bits)
        What goes with the vector (whether and with which bank's constants it is requantized).
    groups : In(index_shape(number of group counts))
        log2 G.
    elements, valid, ready : Out(result_port * 32), Out(1), In(1)
        The beats.
    beat : Out(index_shape(beats of the most groups))
        Number of the beat within its vector.
    last : Out(1)
        Whether it is the vector's last.
    beat_tag : Out(1 + bank bits)
        The vector's tag.
    freed : Out(1)
        An entry leaves with this cycle.
    """

    latency = ResultLane.latency

    def __init__(self, config: MacroConfig) -> None:
        self._config = config
        self._beats = config.result_beats(max_groups(config))
        tag_bits = 1 + index_shape(config.banks).width
        super().__init__(
            {
                "write": In(1),
                "results": In(config.columns * max_groups(config) * SUM_BITS),
                "tag": In(tag_bits),
                "groups": In(index_shape(len(config.group_counts))),
                "elements": Out(config.result_port * SUM_BITS),
                "valid": Out(1),
                "ready": In(1),
                "beat": Out(index_shape(self._beats)),
                "last": Out(1),
                "beat_tag": Out(tag_bits),
                "freed": Out(1),
            }
        )

    def interval(self, groups: int) -> int:
        """Cycles from a vector's first beat to that of the next: ceil(G * C / result_port)."""
        return self._config.result_beats(groups)

    def elaborate(self, platform: object) -> Module:
        config = self._config
        m = Module()
        entries = result_entries(config)
        newest = self._build_pointer(m, "newest", entries, self.write)
        oldest = self._build_pointer(m, "oldest", entries, self.freed)
        filled = Signal(range(entries + 1))
        m.d.sync += filled.eq(filled + self.write - self.freed)

        m.submodules.vectors = vectors = Memory(
            shape=unsigned(len(self.groups) + len(self.tag)), depth=entries, init=[]
        )
        write_port, read_port = vectors.write_port(), vectors.read_port(domain="comb")
        m.d.comb += [
            write_port.en.eq(self.write),
            write_port.addr.eq(newest),
            write_port.data.eq(Cat(self.groups, self.tag)),
            read_port.addr.eq(oldest),
        ]
        final, used = self._build_end(m, read_port.data[: len(self.groups)])
        m.d.comb += [
            self.valid.eq(filled != 0),
            self.last.eq(self.beat == final),
            self.freed.eq(self.valid & self.ready & self.last),
            self.beat_tag.eq(read_port.data[len(self.groups) :]),
            self.elements.eq(
                Cat(
                    self._build_lane(m, platform, index, {"newest": newest, "oldest": oldest, "used": used[index]})
                    for index in range(config.result_port)
                )
            ),
        ]
        with m.If(self.valid & self.ready):
            m.d.sync += self.beat.eq(self.beat + 1)
            with m.If(self.last):
                m.d.sync += self.beat.eq(0)
        return m

    def _build_lane(self, m: Module, platform: object, index: int, control: Mapping[str, Value]) -> Value:
        """Element ``index`` of the beats."""
        config = self._config
        outputs = range(index, self._beats * config.result_port, config.result_port)
        results = Cat(self._output(output) for output in outputs)
        placed = place(
            m,
            platform,
            f"lane_{index}",
            "result_lane",
            lambda: ResultLane(config),
            {"write": self.write, "results": results, "beat": self.beat, **control},
        )
        return placed["element"]

    def _output(self, output: int) -> Value:
        """Output j = h * C + c of the vector that is written; 0 past the last, where its last beat is not full."""
        group, column = divmod(output, self._config.columns)
        groups = max_groups(self._config)
        return self.results.word_select(column * groups + group, SUM_BITS) if group < groups else C(0, SUM_BITS)

    def _build_pointer(self, m: Module, name: str, entries: int, advance: Value) -> Value:
        """A counter of the entries, in a circle."""
        pointer = Signal(index_shape(entries), name=name)
        with m.If(advance):
            m.d.sync += pointer.eq(pointer + 1)
            with m.If(pointer == entries - 1):
                m.d.sync += pointer.eq(0)
        return pointer

    def _build_end(self, m: Module, groups: Value) -> tuple[Value, Value]:
        """A vector's last beat, and a mask over this beat's elements: the last beat zeroes what no output fills."""
        config = self._config
        final = Signal(index_shape(self._beats))
        used = Signal(config.result_port)
        m.d.comb += used.eq(~0)
        with m.Switch(groups):
            for level, count in enumerate(config.group_counts):
                if count > max_groups(config):
                    continue
                with m.Case(level):
                    m.d.comb += final.eq(config.result_beats(count) - 1)
                    leftover = config.tile_outputs(count) % config.result_port
                    if leftover:
                        with m.If(self.last):
                            m.d.comb += used.eq((1 << leftover) - 1)
        return final, used
