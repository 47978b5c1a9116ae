"""The elastic edge of the results: entries that the rigid pipeline fills, and the beats that leave."""

from __future__ import annotations

from amaranth.hdl import Cat, Module, Signal, Value, unsigned
from amaranth.lib import wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from flexcim.config import SUM_BITS, MacroConfig
from flexcim.cycles import result_entries
from hw.merging import max_groups
from hw.shared_modules import index_shape

__all__ = ["ResultBuffer"]


class ResultBuffer(wiring.Component):
    """F entries, each a vector's results with its number of groups.

    The sequencer takes an entry for a vector before it starts, so a write always finds room. Latency from a write to
    the first
    beat is one cycle (`latency`); a vector leaves in `MacroConfig.result_beats` cycles, without a gap to the next.

    Parameters
    ----------
    config : MacroConfig
        The instance.

    Members
    -------
    write : In(1)
        A vector's results are there.
    results : In(max_groups * C * 32)
        The results by output, output 0 lowest.
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

    latency = 1

    def __init__(self, config: MacroConfig) -> None:
        self._config = config
        self._beats = config.result_beats(max_groups(config))
        tag_bits = 1 + index_shape(config.banks).width
        super().__init__(
            {
                "write": In(1),
                "results": In(max_groups(config) * config.columns * SUM_BITS),
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

    def elaborate(self, platform: object) -> Module:
        config = self._config
        m = Module()
        entries = result_entries(config)
        stored = Signal(len(self.groups) + len(self.tag) + len(self.results))
        m.submodules.entries = memory = Memory(shape=unsigned(len(stored)), depth=entries, init=[])
        write_port, read_port = memory.write_port(), memory.read_port(domain="comb")

        newest = self._build_pointer(m, "newest", entries, self.write)
        oldest = self._build_pointer(m, "oldest", entries, self.freed)
        filled = Signal(range(entries + 1))
        m.d.sync += filled.eq(filled + self.write - self.freed)
        m.d.comb += [
            write_port.en.eq(self.write),
            write_port.addr.eq(newest),
            write_port.data.eq(Cat(self.groups, self.tag, self.results)),
            read_port.addr.eq(oldest),
            stored.eq(read_port.data),
        ]

        groups = stored[: len(self.groups)]
        tag = stored[len(self.groups) :][: len(self.tag)]
        results = stored[len(self.groups) + len(self.tag) :]
        final, used = self._build_end(m, groups)
        m.d.comb += [
            self.valid.eq(filled != 0),
            self.last.eq(self.beat == final),
            self.freed.eq(self.valid & self.ready & self.last),
            self.beat_tag.eq(tag),
            self.elements.eq(results.word_select(self.beat, config.result_port * SUM_BITS) & used),
        ]
        with m.If(self.valid & self.ready):
            m.d.sync += self.beat.eq(self.beat + 1)
            with m.If(self.last):
                m.d.sync += self.beat.eq(0)
        return m

    def _build_pointer(self, m: Module, name: str, entries: int, advance: Value) -> Value:
        """A counter of the entries, in a circle."""
        pointer = Signal(range(entries), name=name, init=0)
        with m.If(advance):
            m.d.sync += pointer.eq(pointer + 1)
            with m.If(pointer == entries - 1):
                m.d.sync += pointer.eq(0)
        return pointer

    def _build_end(self, m: Module, groups: Value) -> tuple[Value, Value]:
        """A vector's last beat, and a mask over this beat's elements: the last beat zeroes what no output fills."""
        config = self._config
        final = Signal(index_shape(self._beats))
        used = Signal(config.result_port * SUM_BITS)
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
                            m.d.comb += used.eq((1 << leftover * SUM_BITS) - 1)
        return final, used
