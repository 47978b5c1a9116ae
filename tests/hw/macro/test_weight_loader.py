"""The weight loader: commands and beats in, writes of cells and constants out, and what it refuses."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from amaranth.hdl import Module
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out
from numpy.typing import NDArray

from flexcim.config.macro import MacroConfig
from flexcim.macro.beats import (
    constant_beats,
    constant_payload_bits,
    constant_payloads,
    weight_beats,
    weight_payload_bits,
    weight_payloads,
)
from flexcim.macro.commands import ErrorKind, Load
from flexcim_hw.macro.merging import max_groups
from flexcim_hw.macro.sub_macro import SubMacro, column_sum_bits
from flexcim_hw.macro.weight_loader import WeightLoader
from tests.support.simulation import CONFIGS, Source, pack, simulate, unpack

for_each_config = pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
REQUANTIZED = CONFIGS["half parallel, requantized"]


@dataclass
class Tile:
    """A random tile, its command and the payloads of its beats."""

    command: Load
    weights: NDArray[np.int8]
    offsets: NDArray[np.uint8]
    constants: tuple[NDArray[np.uint16], NDArray[np.uint8]] | None

    @classmethod
    def random(cls, config, rng, bank=None, rows=None, constants=None):
        bank = int(rng.integers(config.banks)) if bank is None else bank
        rows = int(rng.integers(1, config.rows + 1)) if rows is None else rows
        shape = rows, config.sub_macros, config.columns
        limit = 1 << (config.weight_bits - 1)
        weights = rng.integers(-limit, limit, size=shape, dtype=np.int8)
        offsets = rng.integers(0, 1 << config.index_bits, size=shape, dtype=np.uint8)
        brings = config.requantizer and rng.random() < 0.6 if constants is None else constants
        pair = None
        if brings:
            outputs = int(rng.integers(1, max_groups(config) * config.columns + 1))
            pair = (
                rng.integers(0, 1 << 16, outputs, dtype=np.uint16),
                rng.integers(0, 48, outputs, dtype=np.uint8),
            )
        return cls(Load(bank=bank, rows=rows, constants=pair is not None), weights, offsets, pair)

    def weight_payloads(self, config):
        return weight_payloads(config, *weight_beats(config, self.weights, self.offsets))

    def constant_payloads(self, config):
        return constant_payloads(config, *constant_beats(config, *self.constants)) if self.constants else []


@dataclass
class Cycle:
    """What a loader puts out in a cycle, and whether beats are taken with it."""

    taken: dict[str, bool]
    out: dict[str, int]


OUTPUTS = ["write", "write_row", "write_bank", "write_cells", "done", "rows", "has_constants", "error"]
CONSTANT_OUTPUTS = ["write_constants", "constants_bank", "constants_beat", "constants_data"]


def run(config, streams, cycles, pause=lambda: False, control=None):
    """Run a loader on payloads by stream; ``control`` gives each cycle's halt, free and settled, from what was seen."""
    loader = WeightLoader(config)
    sources = {name: Source(getattr(loader, name), payloads, pause) for name, payloads in streams.items()}
    every = (1 << config.banks) - 1
    seen: list[Cycle] = []
    names = OUTPUTS + (CONSTANT_OUTPUTS if config.requantizer else [])

    async def bench(ctx):
        for cycle in range(cycles):
            state = {"halt": 0, "free": every, "settled": every} | (control(seen) if control else {})
            for name, value in state.items():
                ctx.set(getattr(loader, name), value)
            for source in sources.values():
                source.offer(ctx)
            taken = {name: source.take(ctx, cycle) for name, source in sources.items()}
            seen.append(Cycle(taken, {name: ctx.get(getattr(loader, name)) for name in names}))
            await ctx.tick()

    simulate(loader, bench)
    return seen, sources


def streams_of(config, tiles):
    streams = {
        "load": [tile.command.payload() for tile in tiles],
        "weights": [payload for tile in tiles for payload in tile.weight_payloads(config)],
    }
    if config.requantizer:
        streams["constants"] = [payload for tile in tiles for payload in tile.constant_payloads(config)]
    return streams


class Banks:
    """What the writes leave in the cells [bank, R, S, C], and the constants that were written, by bank and beat."""

    def __init__(self, config):
        self.config = config
        self.cells = np.zeros((config.banks, config.rows, config.sub_macros, config.columns), int)
        self.constants: list[tuple[int, int, int]] = []

    def take(self, out):
        config = self.config
        run = min(config.weight_port, config.columns)
        parts = unpack(out["write_cells"], run * config.cell_bits, config.weight_port // run, signed=False)
        for index in range(config.sub_macros * config.columns // run):
            if out["write"] >> index & 1:
                sub_macro, first = index * run // config.columns, index * run % config.columns
                # Sub-macros that one beat fills are next to each other, so is what they take of it.
                cells = unpack(parts[sub_macro % len(parts)], config.cell_bits, run, signed=False)
                self.cells[out["write_bank"], out["write_row"], sub_macro, first : first + run] = cells
        if config.requantizer and out["write_constants"]:
            self.constants.append((out["constants_bank"], out["constants_beat"], out["constants_data"]))


def words(config, tile):
    weights = tile.weights.astype(int) & ((1 << config.weight_bits) - 1)
    return weights | tile.offsets.astype(int) << config.weight_bits


@for_each_config
@pytest.mark.parametrize("pausing", [False, True])
def test_tiles_reach_their_banks(config, pausing):
    """Banks become free again some cycles after they were loaded; what is loaded then is the tile as it was packed."""
    rng = np.random.default_rng(15)
    tiles = [Tile.random(config, rng) for _ in range(12)]
    banks = Banks(config)
    free_from = [0] * config.banks
    loaded = []

    def control(seen):
        cycle = len(seen)
        if seen:
            out = seen[-1].out
            banks.take(out)
            for bank in range(config.banks):
                if out["done"] >> bank & 1:
                    loaded.append((bank, out["rows"], out["has_constants"], cycle))
                    free_from[bank] = cycle + int(rng.integers(1, 9))
        free = [cycle >= start for start in free_from]
        return {"free": pack(free, 1), "settled": pack([ok and rng.random() < 0.5 for ok in free], 1)}

    beats = sum(len(tile.weight_payloads(config)) for tile in tiles)
    pause = (lambda: rng.random() < 0.3) if pausing else (lambda: False)
    seen, sources = run(config, streams_of(config, tiles), 4 * beats + 200, pause, control)
    assert all(source.exhausted for source in sources.values())
    assert {cycle.out["error"] for cycle in seen} == {0}
    assert [entry[:3] for entry in loaded] == [
        (tile.command.bank, tile.command.rows, int(tile.command.constants)) for tile in tiles
    ]
    for bank in range(config.banks):
        # Rows past a tile's own keep what an earlier tile of the bank left.
        image = np.zeros_like(banks.cells[bank])
        for tile in tiles:
            if tile.command.bank == bank:
                image[: tile.command.rows] = words(config, tile)
        assert (banks.cells[bank] == image).all()
    size = constant_payload_bits(config) - 1
    assert banks.constants == [
        (tile.command.bank, beat, payload & ((1 << size) - 1))
        for tile in tiles
        for beat, payload in enumerate(tile.constant_payloads(config))
    ]


@for_each_config
def test_loads_follow_each_other_without_a_gap(config):
    rng = np.random.default_rng(16)
    tiles = [Tile.random(config, rng, constants=False) for _ in range(5)]
    counts = [len(tile.weight_payloads(config)) for tile in tiles]
    assert counts == [config.weight_beats(tile.command.rows) for tile in tiles]
    seen, sources = run(config, streams_of(config, tiles), sum(counts) + 5)
    assert sources["weights"].taken == list(range(1, sum(counts) + 1, WeightLoader.interval))
    # A command is taken with the last beat of the load before it.
    assert sources["load"].taken == [sum(counts[:index]) for index in range(len(tiles))]
    assert [cycle for cycle, step in enumerate(seen) if step.out["done"]] == np.cumsum(counts).tolist()


class LoaderAndSubMacro(wiring.Component):
    """A loader that writes a sub-macro."""

    sums: Any

    def __init__(self, config: MacroConfig) -> None:
        self.loader, self.sub_macro = WeightLoader(config), SubMacro(config)
        super().__init__({"lanes": In(len(self.sub_macro.lanes)), "sums": Out(len(self.sub_macro.sums))})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.loader, m.submodules.sub_macro = loader, sub_macro = self.loader, self.sub_macro
        m.d.comb += [
            sub_macro.lanes.eq(self.lanes),
            sub_macro.write.eq(loader.write),
            sub_macro.write_row.eq(loader.write_row),
            sub_macro.write_bank.eq(loader.write_bank),
            sub_macro.write_cells.eq(loader.write_cells),
            self.sums.eq(sub_macro.sums),
        ]
        return m


def test_a_beat_is_in_the_cells_two_cycles_after_it_was_taken():
    config = CONFIGS["one sub-macro"]
    assert config.weight_beats(1) == 1
    both = LoaderAndSubMacro(config)
    source = Source(both.loader.weights, [1 | 1 << 2])
    sums = []

    async def bench(ctx):
        ctx.set(both.loader.free, 1)
        ctx.set(both.lanes, 1)
        command = Source(both.loader.load, [Load(bank=0, rows=1).payload()])
        for cycle in range(10):
            for stream in (command, source):
                stream.offer(ctx)
                stream.take(ctx, cycle)
            sums.append(unpack(ctx.get(both.sums), column_sum_bits(config), 1)[0])
            await ctx.tick()

    simulate(both, bench)
    (taken,) = source.taken
    # The cell is read in the cycle before its sum is there.
    assert sums.index(1) - both.sub_macro.latency - taken == both.loader.latency == 2


# --- Waiting ---------------------------------------------------------------------------------------------------------


def test_a_load_waits_until_its_bank_is_free_and_no_other():
    config = CONFIGS["two bits, wide windows"]
    tile = Tile.random(config, np.random.default_rng(17), bank=1)
    seen, sources = run(config, streams_of(config, [tile]), 60, control=lambda seen: {"free": 0b010 * (len(seen) > 9)})
    assert sources["load"].taken == [0]
    assert sources["weights"].taken[0] == 10
    assert all(step.out["write_bank"] == 1 for step in seen if step.out["write"])


def test_constants_wait_until_no_result_needs_the_old_ones_and_weights_do_not():
    tile = Tile.random(REQUANTIZED, np.random.default_rng(18), bank=1, rows=2, constants=True)
    weights, constants = len(tile.weight_payloads(REQUANTIZED)), len(tile.constant_payloads(REQUANTIZED))
    seen, sources = run(
        REQUANTIZED, streams_of(REQUANTIZED, [tile]), 60, control=lambda seen: {"settled": 0b10 * (len(seen) > 19)}
    )
    assert sources["weights"].taken == list(range(1, weights + 1))
    assert sources["constants"].taken == list(range(20, 20 + constants))
    assert [cycle for cycle, step in enumerate(seen) if step.out["done"]] == [20 + constants - 1]


def test_a_halted_loader_takes_nothing():
    tile = Tile.random(REQUANTIZED, np.random.default_rng(19), rows=REQUANTIZED.rows, constants=True)
    seen, _ = run(REQUANTIZED, streams_of(REQUANTIZED, [tile]), 40, control=lambda seen: {"halt": int(len(seen) > 3)})
    assert [any(step.taken.values()) for step in seen] == [True] * 4 + [False] * 36
    assert not any(step.out["done"] for step in seen)


# --- Errors ----------------------------------------------------------------------------------------------------------


def first_error(config, streams, control=None):
    seen, _ = run(config, streams, 60, control=control)
    errors = [(cycle, step.out["error"]) for cycle, step in enumerate(seen) if step.out["error"]]
    return errors[0], seen


@pytest.mark.parametrize(
    ("config", "command", "kind"),
    [
        (CONFIGS["serial"], Load(bank=2, rows=1), ErrorKind.LOAD_BANK),
        (CONFIGS["two bits, wide windows"], Load(bank=15, rows=0), ErrorKind.LOAD_BANK),
        (CONFIGS["three lanes, parallel"], Load(bank=1, rows=1), ErrorKind.LOAD_BANK),
        (CONFIGS["serial"], Load(bank=0, rows=0), ErrorKind.LOAD_ROWS),
        (CONFIGS["serial"], Load(bank=1, rows=4), ErrorKind.LOAD_ROWS),
        (CONFIGS["serial"], Load(bank=0, rows=65535, constants=True), ErrorKind.LOAD_ROWS),
        (CONFIGS["serial"], Load(bank=0, rows=3, constants=True), ErrorKind.LOAD_CONSTANTS),
    ],
)
def test_illegal_commands_are_refused(config, command, kind):
    tile = Tile.random(config, np.random.default_rng(20))
    (cycle, error), seen = first_error(config, streams_of(config, [tile]) | {"load": [command.payload()]})
    assert (cycle, error) == (0, kind)
    assert not any(step.out["write"] or step.out["done"] for step in seen)


@pytest.mark.parametrize("config", [CONFIGS["serial"], CONFIGS["two bits, wide windows"], REQUANTIZED])
def test_a_misplaced_last_of_the_weights_is_refused(config):
    tile = Tile.random(config, np.random.default_rng(21), rows=2, constants=False)
    streams = streams_of(config, [tile])
    beats, last = len(streams["weights"]), 1 << (weight_payload_bits(config) - 1)
    for place in (0, beats // 2, beats - 1):
        payloads = list(streams["weights"])
        payloads[place] ^= last
        (cycle, error), _ = first_error(config, streams | {"weights": payloads})
        assert (cycle, error) == (1 + place, ErrorKind.WEIGHTS_LAST)


def test_a_bank_stays_unloaded_when_its_tile_ends_without_last():
    config = CONFIGS["serial"]
    streams = streams_of(config, [Tile.random(config, np.random.default_rng(22), rows=1)])
    streams["weights"][-1] &= (1 << (weight_payload_bits(config) - 1)) - 1
    errors: list[int] = []

    def control(seen):
        errors.extend(step.out["error"] for step in seen[-1:])
        return {"halt": int(any(errors))}

    _, seen = first_error(config, streams, control)
    assert any(errors)
    assert not any(step.out["done"] for step in seen)


def test_constants_without_an_end_are_refused():
    config = REQUANTIZED
    room = config.result_beats(max_groups(config))
    tile = Tile.random(config, np.random.default_rng(23), rows=1, constants=True)
    streams = streams_of(config, [tile]) | {"constants": [0] * (room + 2)}
    (cycle, error), _ = first_error(config, streams)
    assert (cycle, error) == (room, ErrorKind.CONSTANTS_LAST)


def test_the_next_constants_start_at_output_0_again():
    config = REQUANTIZED
    rng = np.random.default_rng(24)
    tiles = [Tile.random(config, rng, rows=2, constants=True) for _ in range(4)]
    seen, _ = run(config, streams_of(config, tiles), 100)
    beats = [step.out["constants_beat"] for step in seen if step.out["write_constants"]]
    assert beats == [beat for tile in tiles for beat in range(len(tile.constant_payloads(config)))]
