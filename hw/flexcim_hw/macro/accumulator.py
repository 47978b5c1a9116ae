"""Block 5, the accumulator: over the slices and phases of a vector, then over the K tiles of a layer."""

from __future__ import annotations

from amaranth.hdl import Cat, Module, Mux, Signal, Value, signed, unsigned
from amaranth.lib import wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out
from amaranth.utils import ceil_log2

from flexcim.config.macro import SUM_BITS, MacroConfig
from flexcim_hw.common.shared_modules import index_shape, place_array
from flexcim_hw.common.signals import delay, named
from flexcim_hw.macro.merging import max_groups, merged_sum_bits

__all__ = ["Accumulator", "AccumulatorColumn", "SumMemory"]


def _memory_control(config: MacroConfig) -> dict[str, wiring.Member]:
    """The ports by which a `SumMemory` is told what to do."""
    slot = index_shape(config.accumulator_depth)
    return {
        "read_enable": In(1),
        "read_slot": In(slot),
        "groups": In(index_shape(len(config.group_counts))),
        "slot": In(slot),
        "first_k": In(1),
        "write_enable": In(1),
    }


class SumMemory(wiring.Component):
    """The sums of one column between K tiles: S banks of D / S sums. The banks of all columns make words of C sums.

    Vector v, group h is in bank (v * G + h) mod S at address (v * G + h) div S. A read takes one cycle (`latency`),
    and there may be one each cycle (`interval`); a write in the cycle of a read is seen by it, so that even a
    one-vector tile may follow itself at one cycle per vector.

    Parameters
    ----------
    config : MacroConfig
        The instance.

    Members
    -------
    read_enable, read_slot : In
        The v * G of the vector whose last partial sum is there in this cycle.
    groups, slot : In
        log2 G and v * G of the vector whose totals are there in this cycle, one cycle after its read.
    first_k, write_enable : In(1)
        Whether its stored sums count as 0; whether its totals are stored.
    totals : In(max_groups * 32)
        The totals of the output groups, group 0 lowest.
    stored : Out(max_groups * 32)
        Its stored sums, likewise.
    """

    latency = 1
    interval = 1

    def __init__(self, config: MacroConfig) -> None:
        self._config = config
        self._rotation_bits = ceil_log2(config.sub_macros)
        super().__init__(
            {
                **_memory_control(config),
                "totals": In(max_groups(config) * SUM_BITS),
                "stored": Out(max_groups(config) * SUM_BITS),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        reads = [self._build_bank(m, bank) for bank in range(self._config.sub_macros)]
        stored = [self._build_bank_choice(m, group, reads) for group in range(max_groups(self._config))]
        m.d.comb += self.stored.eq(Mux(self.first_k, 0, Cat(stored)))
        return m

    def _build_bank(self, m: Module, bank: int) -> Value:
        """A bank, and which group of the totals it takes: a vector's groups follow each other from its rotation on."""
        config = self._config
        depth = config.accumulator_depth // config.sub_macros
        m.submodules[f"bank_{bank}"] = memory = Memory(shape=unsigned(SUM_BITS), depth=depth, init=[])
        write = memory.write_port()
        read = memory.read_port(transparent_for=(write,))
        m.d.comb += [
            read.en.eq(self.read_enable),
            read.addr.eq(self.read_slot[self._rotation_bits :]),
            write.addr.eq(self.slot[self._rotation_bits :]),
        ]
        with m.Switch(self.groups):
            for level, count in enumerate(config.group_counts):
                if count <= max_groups(config):
                    rotation = self.slot[level : self._rotation_bits]
                    with m.Case(level):
                        m.d.comb += [
                            write.data.eq(self.totals.word_select(bank % count, SUM_BITS)),
                            write.en.eq(self.write_enable & (rotation == bank >> level)),
                        ]
        return read.data

    def _build_bank_choice(self, m: Module, group: int, reads: list[Value]) -> Value:
        """The bank that holds a group's sum of the vector."""
        config = self._config
        chosen = Signal(SUM_BITS, name=f"stored_{group}")
        rotation = self.slot[: self._rotation_bits]
        with m.Switch(Cat(rotation, self.groups)):
            for level, count in enumerate(config.group_counts):
                for turn in range(0, config.sub_macros, count) if count > group else ():
                    with m.Case(turn | level << self._rotation_bits):
                        m.d.comb += chosen.eq(reads[turn + group])
        return chosen


class AccumulatorColumn(wiring.Component):
    """The accumulators of one column's output groups, and the memory of their sums between K tiles.

    A partial sum is in the slice accumulator one cycle later (`latency`); the total is combinational from there.
    It takes a partial sum each cycle (`interval`).

    Parameters
    ----------
    config : MacroConfig
        The instance.

    Members
    -------
    merged : In(max_groups * merged_sum_bits)
        Signed partial sums of the output groups, group 0 lowest.
    clear : In(1)
        The partial sum is a vector's first.
    shift : In(1)
        The partial sum is the first of a slice: acc * 2^b is added to.
    read_enable, read_slot, groups, slot, first_k, write_enable : In
        As in `SumMemory`.
    totals : Out(max_groups * 32)
        The accumulated sum of each group, plus what earlier K tiles of the layer left for it.
    """

    latency = 1
    interval = 1

    def __init__(self, config: MacroConfig) -> None:
        self._config = config
        groups = max_groups(config)
        super().__init__(
            {
                "merged": In(groups * merged_sum_bits(config)),
                "clear": In(1),
                "shift": In(1),
                **_memory_control(config),
                "totals": Out(groups * SUM_BITS),
            }
        )

    def elaborate(self, platform: object) -> Module:
        config = self._config
        m = Module()
        m.submodules.memory = memory = SumMemory(config)
        m.d.comb += [getattr(memory, port).eq(getattr(self, port)) for port in (*_memory_control(config), "totals")]
        totals = []
        for group in range(max_groups(config)):
            partial = self.merged.word_select(group, merged_sum_bits(config)).as_signed()
            sum_ = Signal(signed(config.sum_bits), name=f"sum_{group}", reset_less=True)
            carried = Mux(self.clear, 0, Mux(self.shift, sum_ << config.bits_per_cycle, sum_))
            m.d.sync += sum_.eq(carried + partial)
            total = Signal(signed(SUM_BITS), name=f"total_{group}")
            m.d.comb += total.eq(sum_ + memory.stored.word_select(group, SUM_BITS).as_signed())
            totals.append(total)
        m.d.comb += self.totals.eq(Cat(totals))
        return m


class Accumulator(wiring.Component):
    """C accumulator columns and their control.

    Latency from a vector's last partial sum to its total is one cycle (`latency`), and it takes a partial sum each
    cycle (`interval`).

    Parameters
    ----------
    config : MacroConfig
        The instance.

    Members
    -------
    merged : In(C * max_groups * merged_sum_bits)
        Signed partial sums, column 0 lowest.
    clear, shift : In(1)
        As in `AccumulatorColumn`.
    done : In(1)
        The partial sum is a vector's last.
    groups : In(index_shape(number of group counts))
        log2 G of the vector.
    slot : In(index_shape(D))
        v * G of the vector.
    first_k, last_k : In(1)
        Whether the vector belongs to its layer's first, last K tile.
    totals : Out(C * max_groups * 32)
        The sums of each column's output groups, column 0 and in it group 0 lowest, one cycle after `done`.
    """

    latency = AccumulatorColumn.latency
    interval = AccumulatorColumn.interval

    def __init__(self, config: MacroConfig) -> None:
        self._config = config
        super().__init__(
            {
                "merged": In(config.columns * max_groups(config) * merged_sum_bits(config)),
                "clear": In(1),
                "shift": In(1),
                "done": In(1),
                "groups": In(index_shape(len(config.group_counts))),
                "slot": In(index_shape(config.accumulator_depth)),
                "first_k": In(1),
                "last_k": In(1),
                "totals": Out(config.columns * max_groups(config) * SUM_BITS),
            }
        )

    def elaborate(self, platform: object) -> Module:
        config = self._config
        m = Module()
        write = Signal()
        m.d.sync += write.eq(self.done & ~self.last_k)
        inputs = {
            "merged": self.merged,
            "clear": self.clear,
            "shift": self.shift,
            "read_enable": named(m, "read_enable", self.done & ~self.first_k),
            "read_slot": self.slot,
            "groups": delay(m, self.groups, self.latency),
            "slot": delay(m, self.slot, self.latency),
            "first_k": delay(m, self.first_k, self.latency),
            "write_enable": write,
        }
        columns = place_array(
            m, platform, "column", "accumulator_column", lambda: AccumulatorColumn(config), config.columns, inputs
        )
        m.d.comb += self.totals.eq(columns["totals"])
        return m
