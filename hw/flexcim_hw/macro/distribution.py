"""Block 2, the distribution crossbar: from a row's window to the lanes of each sub-macro."""

from __future__ import annotations

from collections.abc import Iterable

from amaranth.hdl import Cat, Module, Mux, Signal, Value
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from flexcim.config.macro import MacroConfig
from flexcim_hw.common.shared_modules import index_shape, place
from flexcim_hw.common.signals import named
from flexcim_hw.macro.sub_macro import max_phases

__all__ = ["Distribution", "DistributionRow", "StartTable"]


class StartTable:
    """Where in the window each sub-macro's block starts, for every mode of the menu.

    Parameters
    ----------
    config : MacroConfig
        The instance.
    """

    def __init__(self, config: MacroConfig) -> None:
        self._config = config

    def start(self, mode: int, sub_macro: int) -> int:
        """base(a) = (a div n) * m + (a mod n) of the sub-macro's aggregated index a = s mod J."""
        pattern, groups = self._config.modes[mode]
        index = sub_macro % (self._config.sub_macros // groups)
        return index // pattern.n * pattern.m + index % pattern.n

    def starts(self, sub_macro: int, offset: int = 0) -> list[int]:
        """The distinct starts that modes with at least this largest offset select, ascending."""
        reach = (mode for mode, (pattern, _) in enumerate(self._config.modes) if pattern.max_offset >= offset)
        return sorted({self.start(mode, sub_macro) for mode in reach})


class DistributionRow(wiring.Component):
    """The crossbar of one slot row.

    Latency is one cycle (`latency`), and it takes a slice each cycle (`interval`).

    Parameters
    ----------
    config : MacroConfig
        The instance.

    Members
    -------
    slices : In(max_window * b)
        The slice of each element of the window.
    start_<s> : In(index_shape(number of starts of sub-macro s))
        Stage 1: which start sub-macro s takes, as its place among the starts that the menu can select.
    phase : In(index_shape(T))
        Stage 2: the phase.
    enable : In(L)
        Stage 2: lanes within the block in this phase; the others carry 0.
    lanes : Out(S * L * b)
        The lanes, lane 0 of sub-macro 0 lowest.
    """

    latency = 1
    interval = 1

    def __init__(self, config: MacroConfig) -> None:
        self._config = config
        self._table = StartTable(config)
        members = {
            "slices": In(config.max_window * config.bits_per_cycle),
            "phase": In(index_shape(max_phases(config))),
            "enable": In(config.lanes),
            "lanes": Out(config.sub_macros * config.lanes * config.bits_per_cycle),
        }
        for sub_macro in range(config.sub_macros):
            members[f"start_{sub_macro}"] = In(index_shape(len(self._table.starts(sub_macro))))
        super().__init__(members)

    def elaborate(self, platform: object) -> Module:
        m = Module()
        lanes = []
        for sub_macro in range(self._config.sub_macros):
            block = self._build_stage_1(m, sub_macro)
            lanes += self._build_stage_2(m, sub_macro, block)
        m.d.sync += self.lanes.eq(Cat(lanes))
        return m

    def _build_stage_1(self, m: Module, sub_macro: int) -> list[Value]:
        """Between sub-macros: the elements from the selected start on, as far as the menu's offsets go."""
        bits = self._config.bits_per_cycle
        select = getattr(self, f"start_{sub_macro}")
        codes = {start: code for code, start in enumerate(self._table.starts(sub_macro))}
        elements = []
        for offset in range(max(pattern.max_offset for pattern in self._config.patterns) + 1):
            element = Signal(bits, name=f"element_{sub_macro}_{offset}")
            starts = self._table.starts(sub_macro, offset)
            _build_choice(m, element, select, ((codes[start], self._slice(start + offset)) for start in starts))
            elements.append(element)
        return elements

    def _build_stage_2(self, m: Module, sub_macro: int, block: list[Value]) -> list[Value]:
        """Within the block: lane l carries element t * L + l in phase t."""
        config = self._config
        lanes = []
        for lane in range(config.lanes):
            element = Signal(config.bits_per_cycle, name=f"lane_{sub_macro}_{lane}")
            _build_choice(m, element, self.phase, enumerate(block[lane :: config.lanes]))
            lanes.append(Mux(self.enable[lane], element, 0))
        return lanes

    def _slice(self, element: int) -> Value:
        return self.slices.word_select(element, self._config.bits_per_cycle)


def _build_choice(m: Module, target: Signal, select: Value, sources: Iterable[tuple[int, Value]]) -> None:
    """Drive the target with the source of the selected code; any other code may give any of the sources."""
    choices = list(sources)
    if len(choices) == 1:
        m.d.comb += target.eq(choices[0][1])
    elif choices:
        with m.Switch(select):
            for code, source in choices[:-1]:
                with m.Case(code):
                    m.d.comb += target.eq(source)
            with m.Default():
                m.d.comb += target.eq(choices[-1][1])


class Distribution(wiring.Component):
    """R crossbar rows with common control.

    Latency is one cycle (`latency`), and it takes a slice each cycle (`interval`).

    Parameters
    ----------
    config : MacroConfig
        The instance.

    Members
    -------
    slices : In(R * max_window * b)
        The slices of the activation buffer, row 0 lowest.
    mode : In(index_shape(number of modes))
        Pattern and groups, as their place among `MacroConfig.modes`.
    phase : In(index_shape(T))
        The phase.
    lanes : Out(S * R * L * b)
        The lanes, lane 0 of row 0 of sub-macro 0 lowest.
    """

    latency = DistributionRow.latency
    interval = DistributionRow.interval

    def __init__(self, config: MacroConfig) -> None:
        self._config = config
        self._table = StartTable(config)
        super().__init__(
            {
                "slices": In(config.rows * config.max_window * config.bits_per_cycle),
                "mode": In(index_shape(len(config.modes))),
                "phase": In(index_shape(max_phases(config))),
                "lanes": Out(config.sub_macros * config.rows * config.lanes * config.bits_per_cycle),
            }
        )

    def elaborate(self, platform: object) -> Module:
        config = self._config
        m = Module()
        control: dict[str, Value] = {"phase": self.phase, "enable": self._build_enable(m)}
        for sub_macro in range(config.sub_macros):
            control[f"start_{sub_macro}"] = self._build_start(m, sub_macro)
        rows = []
        for row in range(config.rows):
            slices = self.slices.word_select(row, config.max_window * config.bits_per_cycle)
            placed = place(
                m,
                platform,
                f"row_{row}",
                "distribution_row",
                lambda: DistributionRow(config),
                {"slices": slices, **control},
            )
            rows.append(placed["lanes"])
        width = config.lanes * config.bits_per_cycle
        m.d.comb += self.lanes.eq(
            Cat(lanes.word_select(sub_macro, width) for sub_macro in range(config.sub_macros) for lanes in rows)
        )
        return m

    def _build_start(self, m: Module, sub_macro: int) -> Value:
        starts = self._table.starts(sub_macro)
        code = Signal(index_shape(len(starts)), name=f"start_{sub_macro}")
        with m.Switch(self.mode):
            for mode in range(len(self._config.modes)):
                with m.Case(mode):
                    m.d.comb += code.eq(starts.index(self._table.start(mode, sub_macro)))
        return code

    def _build_enable(self, m: Module) -> Value:
        """Lane l is within the block while t * L + l <= m - n."""
        config = self._config
        last = Signal(range(max(pattern.max_offset for pattern in config.patterns) + 1))
        with m.Switch(self.mode):
            for mode, (pattern, _) in enumerate(config.modes):
                with m.Case(mode):
                    m.d.comb += last.eq(pattern.max_offset)
        first = named(m, "first_element", self.phase * config.lanes)
        return named(m, "enable", Cat(first + lane <= last for lane in range(config.lanes)))
