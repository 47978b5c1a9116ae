"""The activation buffer against its golden twin: beats in, windows held, slices out, vector after vector."""

from __future__ import annotations

import numpy as np
import pytest

from flexcim.config.macro import PRESETS
from flexcim.macro.beats import activation_beats
from flexcim_hw.macro.activation_buffer import ActivationBuffer, FillGeometry, WindowStore
from flexcim_sim.golden.activation_buffer import windows
from flexcim_sim.golden.distribution import slices
from tests.support.simulation import CONFIGS, instance, latency, pack, trace, unpack

MENUS = {
    **CONFIGS,
    "port of one": instance("1:1 2:3", rows=2, columns=4, activation_port=1),
    "rows of a prime": instance("1:1 4:5", rows=5, columns=4, activation_port=48, bits_per_cycle=8),
}
for_each_config = pytest.mark.parametrize("config", MENUS.values(), ids=MENUS)


class Vector:
    """A vector of random beats in a random mode, and what has to come out for it."""

    def __init__(self, config, rng):
        self.pattern, self.groups = config.modes[rng.integers(len(config.modes))]
        self.rows = int(rng.integers(1, config.rows + 1))
        self.window = config.window(self.pattern, self.groups)
        limit = 1 << (config.activation_bits - 1)
        shape = config.vector_beats(self.window, self.rows), config.activation_port
        self.beats = rng.integers(-limit, limit, size=shape, dtype=np.int8)
        held = windows(config, self.pattern, self.groups, self.rows, self.beats[np.newaxis])[0]
        self.slices = [part.tolist() for part in slices(config, held) & ((1 << config.bits_per_cycle) - 1)]

    def writes(self, config, geometry):
        """The cycles that fill the buffer, beat by beat."""
        first_row = window_beat = 0
        for beat in self.beats:
            yield {
                "beat": pack(beat, config.activation_bits),
                "write": 1,
                "window_code": geometry.windows.index(self.window),
                "first_row": first_row,
                "window_beat": window_beat,
            }
            window_beat += 1
            if window_beat == geometry.beats_per_window(self.window):
                window_beat, first_row = 0, first_row + geometry.rows_per_beat(self.window)


def stream_of(config, buffer, vectors, phases):
    """The inputs of each cycle when vectors follow as closely as they can, and the cycles in which they start."""
    cycles: list[dict[str, int]] = [{}]
    starts: list[int] = []
    for vector in vectors:
        # From the cycle on in which the vector before starts, the fill half is there for this one.
        fill = starts[-1] if starts else 0
        writes = list(vector.writes(config, buffer.geometry))
        beats = buffer.interval(vector.pattern, vector.groups, vector.rows)
        assert len(writes) == beats
        begin = max(fill + beats, fill + phases * config.slices if starts else 0)
        cycles += [{} for _ in range(begin + phases * config.slices + 1 - len(cycles))]
        for index, write in enumerate(writes):
            cycles[fill + index] |= write
        cycles[begin] |= {"start": 1, "active": (1 << vector.rows) - 1}
        for index in range(config.slices):
            cycles[begin + (index + 1) * phases] |= {"shift": 1}
        starts.append(begin)
    return [{"write": 0, "start": 0, "shift": 0} | cycle for cycle in cycles], starts


def seen_slices(config, words, window):
    """The slices of each row's first ``window`` elements; what lies past a mode's own window means nothing."""
    elements = unpack(words, config.bits_per_cycle, config.rows * config.max_window, signed=False)
    return np.reshape(elements, (config.rows, -1))[:, :window].tolist()


@for_each_config
@pytest.mark.parametrize("phases", [1, 3])
def test_slices_are_those_of_the_golden_windows(config, phases):
    """Vectors follow without a gap: a slice every ``phases`` cycles, while the next vector's beats are taken."""
    rng = np.random.default_rng(4)
    vectors = [Vector(config, rng) for _ in range(25)]
    buffer = ActivationBuffer(config)
    cycles, starts = stream_of(config, buffer, vectors, phases)
    seen = [word for (word,) in trace(buffer, cycles, ["slices"], extra=1)]
    assert buffer.latency == WindowStore.latency == 1
    for vector, start in zip(vectors, starts, strict=True):
        first = start + buffer.latency
        words = seen[first : first + phases * config.slices]
        out = [seen_slices(config, word, vector.window) for word in words]
        assert out == [part for part in vector.slices for _ in range(phases)]


def test_the_first_slice_comes_one_cycle_after_the_start():
    config = MENUS["rows of a prime"]
    store = WindowStore(config)
    rng = np.random.default_rng(6)
    words = [int(word) for word in rng.integers(1, 1 << 31, 12)]
    window = (1 << config.max_window * config.activation_bits) - 1
    stimulus = [{"data": word & window, "write": 1, "start": 1, "active": 1} for word in words]
    seen = [word for (word,) in trace(store, stimulus, ["slices"], extra=3)]
    # With A = b the only slice is the element itself; the start copies what was written a cycle before.
    assert latency(seen, words, store.interval) == store.latency + 1 == 2


def test_rows_that_are_not_used_read_as_zero_and_keep_their_elements():
    config = MENUS["rows of a prime"]
    ones = pack([1] * config.max_window, config.activation_bits)
    stimulus = [
        {"data": ones, "write": 1, "start": 0, "active": 0},
        {"write": 0, "start": 1},
        {"start": 1, "active": 1},
        {"start": 0},
    ]
    assert trace(WindowStore(config), stimulus, ["slices"], extra=1)[2:] == [(0,), (ones,), (ones,)]


# --- Geometry --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("config", [*MENUS.values(), *PRESETS.values()], ids=[*MENUS, *PRESETS])
def test_the_geometry_is_that_of_the_stream(config):
    """Where `flexcim.macro.beats` puts an element of a window, the hardware looks for it."""
    geometry = FillGeometry(config)
    assert geometry.windows == tuple(sorted({config.window(*mode) for mode in config.modes}))
    for pattern, groups in config.modes:
        window = config.window(pattern, groups)
        number = np.arange(config.rows * window) % 127 + 1
        beats = activation_beats(config, pattern, groups, config.rows, number[np.newaxis].astype(np.int8))[0]
        for row in range(config.rows):
            first_beat = geometry.first_row(window, row) // geometry.rows_per_beat(window)
            for element in range(window):
                beat = first_beat * geometry.beats_per_window(window) + element // config.activation_port
                source = geometry.source(window, row, element)
                assert beats[beat, source] == number[row * window + element]


@pytest.mark.parametrize("config", [*MENUS.values(), *PRESETS.values()], ids=[*MENUS, *PRESETS])
def test_chunks_cover_the_window_and_no_mux_crosses_one(config):
    geometry = FillGeometry(config)
    assert geometry.chunks[0][0] == 0
    assert geometry.chunks[-1][1] == config.max_window
    assert all(one[1] == other[0] for one, other in zip(geometry.chunks, geometry.chunks[1:], strict=False))
    for low, high in geometry.chunks:
        for window in geometry.windows:
            assert window <= low or window >= high
            if window >= high:
                first = geometry.source(window, 0, low)
                sources = [geometry.source(window, 0, element) for element in range(low, high)]
                assert sources == list(range(first, first + high - low))
