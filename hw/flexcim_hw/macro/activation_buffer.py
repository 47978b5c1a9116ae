"""Block 1, the activation buffer: takes beats into windows, and shifts out a slice of each window's activations."""

from __future__ import annotations

from collections import defaultdict
from functools import cached_property
from itertools import pairwise

from amaranth.hdl import Cat, Module, Mux, Signal, Value
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from flexcim.config.macro import MacroConfig
from flexcim.config.pattern import Pattern
from flexcim_hw.common.shared_modules import index_shape, place
from flexcim_hw.common.signals import named

__all__ = ["ActivationBuffer", "FillGeometry", "WindowStore"]


class FillGeometry:
    """Which element of which beat goes where, for every window width of the menu.

    Parameters
    ----------
    config : MacroConfig
        The instance.

    Attributes
    ----------
    windows : tuple of int
        The distinct window widths, ascending; their indices are the *window codes*.
    """

    def __init__(self, config: MacroConfig) -> None:
        self._config = config
        self.windows = tuple(sorted({config.window(*mode) for mode in config.modes}))

    def rows_per_beat(self, window: int) -> int:
        """Rows by which a beat, or the beats of one window, go forward."""
        return max(1, self._config.windows_per_beat(window))

    def beats_per_window(self, window: int) -> int:
        """Beats of one window; 1 if a beat carries whole windows."""
        return max(1, -(-window // self._config.activation_port))

    @cached_property
    def max_beats_per_window(self) -> int:
        """The most beats that a window of the menu takes."""
        return max(map(self.beats_per_window, self.windows))

    def first_row(self, window: int, row: int) -> int:
        """First row of the beat that holds this row's window."""
        return row - row % self.rows_per_beat(window)

    def source(self, window: int, row: int, element: int) -> int:
        """Place in its beat of a window's element."""
        if self.beats_per_window(window) > 1:
            return element % self._config.activation_port
        return row % self.rows_per_beat(window) * window + element

    @cached_property
    def chunks(self) -> tuple[tuple[int, int], ...]:
        """Runs of elements that the same window widths reach and one beat fills, as (first, past the last)."""
        port, widest = self._config.activation_port, self.windows[-1]
        edges = sorted({0, *self.windows, *range(port, widest, port)})
        return tuple(pairwise(edges))


class WindowStore(wiring.Component):
    """One row of the buffer: the fill half, which takes elements, and the compute half, which shifts out slices.

    Latency from `start` to the first slice is one cycle (`latency`), and a slice follows each cycle (`interval`).

    Parameters
    ----------
    config : MacroConfig
        The instance.

    Members
    -------
    data : In(max_window * A)
        The window, element 0 lowest.
    write : In(beats of the widest window)
        Which of the window's beats is written.
    start : In(1)
        Copy the fill half to the compute half; slices follow, the most significant first.
    shift : In(1)
        Go on to the next slice.
    active : In(1)
        With `start`: whether the vector uses this row. The slices of a row that is not used are 0.
    slices : Out(max_window * b)
        The current slice of each element, element 0 lowest.
    """

    latency = 1
    interval = 1

    def __init__(self, config: MacroConfig) -> None:
        self._config = config
        super().__init__(
            {
                "data": In(config.max_window * config.activation_bits),
                "write": In(FillGeometry(config).max_beats_per_window),
                "start": In(1),
                "shift": In(1),
                "active": In(1),
                "slices": Out(config.max_window * config.bits_per_cycle),
            }
        )

    def elaborate(self, platform: object) -> Module:
        config = self._config
        m = Module()
        fill = Signal(config.max_window * config.activation_bits, reset_less=True)
        beat_bits = config.activation_port * config.activation_bits
        for beat, enable in enumerate(self.write):
            with m.If(enable):
                part = slice(beat * beat_bits, (beat + 1) * beat_bits)
                m.d.sync += fill[part].eq(self.data[part])

        # The compute half is kept slice by slice, so that all elements shift as one word.
        planes = [self._plane(fill, index) for index in range(config.slices)]
        compute = Signal(config.max_window * config.activation_bits, reset_less=True)
        used = Signal()
        with m.If(self.start):
            m.d.sync += [compute.eq(Cat(planes)), used.eq(self.active)]
        with m.Elif(self.shift):
            m.d.sync += compute.eq(compute << len(planes[0]))
        m.d.comb += self.slices.eq(Mux(used, compute[-len(planes[0]) :], 0))
        return m

    def _plane(self, window: Value, index: int) -> Value:
        """Slice ``index`` of each element, the least significant is 0."""
        config = self._config
        return Cat(
            window.word_select(element, config.activation_bits).word_select(index, config.bits_per_cycle)
            for element in range(config.max_window)
        )


class ActivationBuffer(wiring.Component):
    """R rows of windows, double-buffered, written in natural order.

    Each element's write mux is built over just the sources that the menu's window widths need, and equal muxes are
    shared between rows. Latency from `start` to the first slice is one cycle (`latency`); a vector is taken in
    as many cycles as it has beats (`interval`) while the one before is shifted out.

    Parameters
    ----------
    config : MacroConfig
        The instance.

    Members
    -------
    beat : In(P * A)
        A beat of the activation stream.
    write : In(1)
        Whether the beat is taken.
    window_code : In(index_shape(number of window widths))
        Window width of the vector that is filled, as its place among the menu's widths.
    first_row : In(index_shape(R))
        First row of the beat.
    window_beat : In(index_shape(beats of the widest window))
        Which beat of its window it is.
    start, shift : In(1)
        As in `WindowStore`.
    active : In(R)
        With `start`: the rows that the vector uses.
    slices : Out(R * max_window * b)
        The current slice of each element, row 0 lowest.
    """

    latency = WindowStore.latency

    def __init__(self, config: MacroConfig) -> None:
        self._config = config
        self.geometry = FillGeometry(config)
        super().__init__(
            {
                "beat": In(config.activation_port * config.activation_bits),
                "write": In(1),
                "window_code": In(index_shape(len(self.geometry.windows))),
                "first_row": In(index_shape(config.rows)),
                "window_beat": In(index_shape(self.geometry.max_beats_per_window)),
                "start": In(1),
                "shift": In(1),
                "active": In(config.rows),
                "slices": Out(config.rows * config.max_window * config.bits_per_cycle),
            }
        )

    def interval(self, pattern: Pattern, groups: int, rows: int) -> int:
        """Cycles from a vector's first beat to that of the next: ceil(rows / f), or rows * ceil(w / P) where w > P."""
        return self._config.vector_beats(self._config.window(pattern, groups), rows)

    def elaborate(self, platform: object) -> Module:
        m = Module()
        self._muxes: dict[tuple[tuple[int, int], ...], Signal] = {}
        slices = []
        for row in range(self._config.rows):
            store = place(
                m,
                platform,
                f"store_{row}",
                "window_store",
                lambda: WindowStore(self._config),
                {
                    "data": Cat(self._build_chunk(m, row, low, high) for low, high in self.geometry.chunks),
                    "write": self._build_enables(m, row),
                    "start": self.start,
                    "shift": self.shift,
                    "active": self.active[row],
                },
            )
            slices.append(store["slices"])
        m.d.comb += self.slices.eq(Cat(slices))
        return m

    def _build_chunk(self, m: Module, row: int, low: int, high: int) -> Value:
        """The elements low ... high - 1 of a row's window, from wherever in the beat the window code has them."""
        sources = {
            code: self.geometry.source(window, row, low)
            for code, window in enumerate(self.geometry.windows)
            if window > low
        }
        key = tuple(sources.items())
        if len(set(sources.values())) == 1:
            return self._elements(key[0][1], high - low)
        if key not in self._muxes:
            self._muxes[key] = mux = Signal((high - low) * self._config.activation_bits, name=f"window_{row}_{low}")
            codes_of = defaultdict(list)
            for code, source in sources.items():
                codes_of[source].append(code)
            *others, last = codes_of
            with m.Switch(self.window_code):
                for source in others:
                    with m.Case(*codes_of[source]):
                        m.d.comb += mux.eq(self._elements(source, high - low))
                with m.Default():
                    m.d.comb += mux.eq(self._elements(last, high - low))
        return self._muxes[key]

    def _elements(self, first: int, count: int) -> Value:
        bits = self._config.activation_bits
        return self.beat[first * bits : (first + count) * bits]

    def _build_enables(self, m: Module, row: int) -> Value:
        """An enable for each beat of the row's window."""
        rows = tuple(self.geometry.first_row(window, row) for window in self.geometry.windows)
        expected: Value | int
        if len(set(rows)) == 1:
            expected = rows[0]
        else:
            expected = Signal(index_shape(self._config.rows), name=f"first_row_of_{row}")
            with m.Switch(self.window_code):
                for code, first in enumerate(rows[:-1]):
                    with m.Case(code):
                        m.d.comb += expected.eq(first)
                with m.Default():
                    m.d.comb += expected.eq(rows[-1])
        taken = named(m, f"write_{row}", self.write & (self.first_row == expected))
        if self.geometry.max_beats_per_window == 1:
            return taken
        return Cat(taken & (self.window_beat == beat) for beat in range(self.geometry.max_beats_per_window))
