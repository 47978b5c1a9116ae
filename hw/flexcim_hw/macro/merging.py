"""Block 4, the merging adder tree: over the sub-macros, with a tap at each level."""

from __future__ import annotations

from amaranth.hdl import Cat, Module, Signal, Value, signed
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from flexcim.config.macro import MacroConfig
from flexcim_hw.common.shared_modules import index_shape
from flexcim_hw.macro.sub_macro import column_sum_bits

__all__ = ["MergingColumn", "max_groups", "merged_sum_bits"]


def max_groups(config: MacroConfig) -> int:
    """The most output groups that a mode of the menu forms."""
    return max(groups for _, groups in config.modes)


def merged_sum_bits(config: MacroConfig) -> int:
    """Bits of the signed sum of one column over all sub-macros."""
    return column_sum_bits(config) + config.sub_macros.bit_length() - 1


class MergingColumn(wiring.Component):
    """The tree of one column.

    Latency is one cycle (`latency`), and it takes a set of sums each cycle (`interval`).

    Parameters
    ----------
    config : MacroConfig
        The instance.

    Members
    -------
    sums : In(S * column_sum_bits)
        The signed sums of the column in each sub-macro, sub-macro 0 lowest.
    groups : In(index_shape(number of group counts))
        log2 G: the tap.
    merged : Out(max_groups * merged_sum_bits)
        The signed result of each output group h = 0 ... G - 1, group 0 lowest; those of higher groups mean nothing.
    """

    latency = 1
    interval = 1

    def __init__(self, config: MacroConfig) -> None:
        self._config = config
        super().__init__(
            {
                "sums": In(config.sub_macros * column_sum_bits(config)),
                "groups": In(index_shape(len(config.group_counts))),
                "merged": Out(max_groups(config) * merged_sum_bits(config)),
            }
        )

    def elaborate(self, platform: object) -> Module:
        config = self._config
        m = Module()
        width = column_sum_bits(config)
        level: list[Value] = [self.sums.word_select(s, width).as_signed() for s in range(config.sub_macros)]
        taps = {len(level): level}
        while len(level) > 1:
            level = [left + right for left, right in zip(level[::2], level[1::2], strict=True)]
            taps[len(level)] = level

        selectable = sorted({groups for _, groups in config.modes})
        merged = []
        for group in range(max_groups(config)):
            chosen = Signal(signed(merged_sum_bits(config)), name=f"group_{group}")
            counts = [count for count in selectable if count > group]
            with m.Switch(self.groups):
                for count in counts[:-1]:
                    with m.Case(count.bit_length() - 1):
                        m.d.comb += chosen.eq(taps[count][group])
                with m.Default():
                    m.d.comb += chosen.eq(taps[counts[-1]][group])
            merged.append(chosen)
        m.d.sync += self.merged.eq(Cat(merged))
        return m
