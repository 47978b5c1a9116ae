"""The program sequencer: what is dispatched, when, and what is refused (docs/architecture.md, sections 7.2 and 7.3)."""

from __future__ import annotations

import functools
from dataclasses import dataclass, field

import numpy as np
import pytest

from flexcim.accelerator.instructions import AcceleratorError, Opcode
from flexcim_hw.accelerator.program_sequencer import ProgramSequencer
from tests.support.accelerators import ACCELERATORS
from tests.support.instructions import instruction
from tests.support.simulation import Sink, exchange, simulate

CONFIG = ACCELERATORS["three macros, narrow buses"]
BANKS, MEMORY, DEPTH = CONFIG.macro.banks, CONFIG.activation_memory, CONFIG.program_depth
END = instruction(Opcode.END)
STREAMS = ("loads", "runs", "result_runs")


def load(**fields):
    return instruction(Opcode.LOAD, **{"macro": 0, "bank": 0, "rows": 1, "words": 1} | fields)


def run(**fields):
    return instruction(Opcode.RUN, **{"macros": 1, "bank": 0, "vectors": 1, "words": 1, "beats": 1} | fields)


def loop(length, count):
    return instruction(Opcode.LOOP, length=length, count=count)


@dataclass
class Played:
    """What a sequencer dispatched on each stream, and its other outputs in each cycle from the start on."""

    sinks: dict[str, Sink]
    running: list[int] = field(default_factory=list)
    done: list[int] = field(default_factory=list)
    position: list[int] = field(default_factory=list)
    overrun: list[int] = field(default_factory=list)
    errors: list[int] = field(default_factory=list)

    @property
    def error(self):
        """The first error, with the place of its instruction; none is (0, None)."""
        return next(((error, self.position[cycle]) for cycle, error in enumerate(self.errors) if error), (0, None))


async def write(ctx, sequencer, program, place=0):
    for index, word in enumerate(program):
        for lane in range(4):
            ctx.set(sequencer.control.write, 1)
            ctx.set(sequencer.control.write_address, 4 * (place + index) + lane)
            ctx.set(sequencer.control.write_data, word >> 32 * lane & 0xFFFF_FFFF)
            await ctx.tick()
    ctx.set(sequencer.control.write, 0)


def play(program, *, entry=0, cycles=80, full=lambda name, taken: False, moved_from=0, pokes=None):
    """Carry a program out; an error halts from the next cycle on.

    ``full`` says whether the queue of a stream, of which it has taken so many instructions, has no room in a cycle;
    ``pokes`` sets inputs of the control in a cycle.
    """
    sequencer = ProgramSequencer(CONFIG)
    control = sequencer.control
    played = Played({})
    for name in STREAMS:
        pause = functools.partial(lambda name: full(name, len(played.sinks[name].taken)), name)
        played.sinks[name] = Sink(getattr(sequencer, name), pause)

    async def bench(ctx):
        await write(ctx, sequencer, program, entry)
        ctx.set(control.entry, entry)
        halted = False
        for cycle in range(cycles):
            ctx.set(sequencer.halt, halted)
            ctx.set(control.start, cycle == 0)
            ctx.set(control.write, 0)
            for name, value in (pokes or {}).get(cycle, {}).items():
                ctx.set(getattr(control, name), value)
            ctx.set(sequencer.moved, cycle >= moved_from)
            exchange(ctx, list(played.sinks.values()), cycle)
            for name, seen in (("running", played.running), ("done", played.done), ("position", played.position)):
                seen.append(ctx.get(getattr(control, name)))
            played.overrun.append(ctx.get(sequencer.overrun))
            played.errors.append(ctx.get(sequencer.error))
            halted = halted or bool(played.errors[-1]) or bool(played.overrun[-1])
            await ctx.tick()

    simulate(sequencer, bench)
    return played


LEGAL = [
    load(macro=0, bank=0, rows=3),
    load(macro=2, bank=0, words=77),
    run(macros=0b101, last_k=0, first_k=1, pattern=3, groups=2, vectors=9),
    run(macros=0b101, last_k=1, release=1, end_packet=1, store=1, address=MEMORY - 1),
    load(macro=0, bank=0),
    load(macro=1, bank=1),
    run(macros=0b001, words=0, replay=1, address=5, last_k=1),
    run(macros=0b010, bank=1, last_k=1, end_packet=1),
]
"""A program of every kind of load and run."""


def dispatched(program):
    """What each stream is to get of a program without loops."""
    runs = [word for word in program if word & 15 == Opcode.RUN]
    return {
        "loads": [word for word in program if word & 15 == Opcode.LOAD],
        "runs": runs,
        "result_runs": [word for word in runs if word >> 64 + 25 & 1],
    }


@pytest.mark.parametrize("entry", [0, 7, DEPTH - len(LEGAL) - 1])
def test_instructions_are_dispatched_every_interval(entry):
    """The first two cycles after the start, and then one in two, where there is room."""
    played = play([*LEGAL, END], entry=entry)
    assert {name: sink.payloads for name, sink in played.sinks.items()} == dispatched(LEGAL)
    times = sorted(cycle for name in ("loads", "runs") for cycle in played.sinks[name].cycles)
    first, step = ProgramSequencer.latency, ProgramSequencer.interval
    assert times == [first + step * index for index in range(len(LEGAL))]
    assert not any(played.errors)
    # END is carried out like any other; the program is done in the cycle behind it, as all has moved.
    done = first + step * len(LEGAL) + 1
    assert [cycle for cycle, one in enumerate(played.done) if one] == [done]
    assert [cycle for cycle, one in enumerate(played.running) if one] == list(range(1, done + 1))


class Rooms:
    """Queues that get room at some time, which stays until it is taken."""

    def __init__(self, rng):
        self.rng = rng
        self.there = set()

    def __call__(self, name, taken):
        if self.rng.random() < 0.2:
            self.there.add((name, taken))
        return (name, taken) not in self.there


@pytest.mark.parametrize("seed", range(4))
def test_instructions_wait_for_room_and_keep_their_order(seed):
    played = play([*LEGAL, END], full=Rooms(np.random.default_rng(seed)), cycles=200)
    assert {name: sink.payloads for name, sink in played.sinks.items()} == dispatched(LEGAL)
    order = sorted((cycle, payload) for name in ("loads", "runs") for cycle, payload in played.sinks[name].taken)
    assert [payload for _, payload in order] == LEGAL
    results = played.sinks["result_runs"].taken
    assert set(results) <= set(played.sinks["runs"].taken)  # in the same cycle
    assert any(played.done)


def test_the_end_waits_until_all_has_moved():
    played = play([END], moved_from=20)
    assert played.done.index(1) == 20
    assert sum(played.done) == 1


def test_a_loop_carries_its_body_out_and_the_next_one_too():
    runs = [run(pattern=index) for index in range(5)]
    played = play([load(), loop(2, 3), *runs[:2], runs[2], loop(1, 2), runs[3], runs[4], END])
    order = [0, 1, 0, 1, 0, 1, 2, 3, 3, 4]
    assert played.sinks["runs"].payloads == [runs[index] for index in order]
    assert any(played.done)


def test_a_second_program_goes_on_with_the_banks_of_the_first():
    again = {40: {"start": 1, "entry": 1}}
    played = play([load(), run(), END], pokes=again)
    assert len(played.sinks["loads"].taken) == 1
    assert len(played.sinks["runs"].taken) == 2
    assert played.error == (0, None)
    assert sum(played.done) == 2


SPARE = {"END": END | 1 << 70, "LOAD": load() | 1 << 17, "LOOP": loop(1, 1) | 1 << 4, "RUN": run() | 1 << 94}

WRONG = {
    "unknown op": ([4], AcceleratorError.INSTRUCTION, 0),
    **{f"spare bit of {name}": ([word, END, END], AcceleratorError.INSTRUCTION, 0) for name, word in SPARE.items()},
    "loop in a loop": ([load(), loop(2, 2), loop(1, 1), run(), END], AcceleratorError.LOOP, 2),
    "loop of no length": ([loop(0, 1), END], AcceleratorError.LOOP, 0),
    "loop of no count": ([loop(1, 0), END], AcceleratorError.LOOP, 0),
    "end in a loop": ([loop(1, 2), END], AcceleratorError.LOOP, 1),
    "load of a macro that is not there": ([load(macro=3)], AcceleratorError.MACROS, 0),
    "run of a macro that is not there": ([load(), run(macros=0b1001)], AcceleratorError.MACROS, 1),
    "run of no macro": ([run(macros=0)], AcceleratorError.MACROS, 0),
    "replay and store": ([load(), run(replay=1, store=1, words=0)], AcceleratorError.MEMORY, 1),
    "store past the memory": ([load(), run(store=1, address=MEMORY)], AcceleratorError.MEMORY, 1),
    "replay past the memory": ([load(), run(replay=1, words=0, address=MEMORY)], AcceleratorError.MEMORY, 1),
    "address without memory": ([load(), run(address=1)], AcceleratorError.MEMORY, 1),
    "load of no words": ([load(words=0)], AcceleratorError.WORDS, 0),
    "run of no words": ([load(), run(words=0)], AcceleratorError.WORDS, 1),
    "replay with words": ([load(), run(replay=1)], AcceleratorError.WORDS, 1),
    "open packet": ([load(), run(last_k=1), END], AcceleratorError.PACKET, 2),
    "load of a bank that is not there": ([load(bank=BANKS)], AcceleratorError.BANK, 0),
    "run of a bank that is not there": ([load(), run(bank=BANKS)], AcceleratorError.BANK, 1),
    "load of a loaded bank": ([load(), load()], AcceleratorError.BANK, 1),
    "run of an empty bank": ([load(bank=1), run()], AcceleratorError.BANK, 1),
    "run of a released bank": ([load(), run(release=1), run()], AcceleratorError.BANK, 2),
    "run of two macros, one of them not loaded": ([load(macro=1), run(macros=0b11)], AcceleratorError.BANK, 1),
}


@pytest.mark.parametrize(("program", "kind", "place"), WRONG.values(), ids=WRONG)
@pytest.mark.parametrize("room", [True, False])
def test_what_is_wrong_is_refused_and_nothing_behind_it_is_dispatched(program, kind, place, room):
    """With room for what stands before it; and it needs none for itself."""
    before = dispatched(program[:place])
    left = {name: len(payloads) for name, payloads in before.items()}
    played = play(program, cycles=40, full=lambda name, taken: not room and taken >= left[name])
    assert played.error == (kind, place)
    if Opcode.LOOP not in [word & 15 for word in program]:
        assert {name: sink.payloads for name, sink in played.sinks.items()} == before
    assert not any(played.done)


def test_running_past_the_memory_is_an_error():
    played = play([load()], entry=DEPTH - 1)
    assert played.error == (AcceleratorError.PROGRAM_END, DEPTH)
    assert play([], entry=DEPTH).error == (AcceleratorError.PROGRAM_END, DEPTH)


@pytest.mark.parametrize("poke", [{"start": 1}, {"write": 1, "write_address": 0, "write_data": 7}])
def test_a_start_or_a_write_while_a_program_runs_is_an_overrun(poke):
    played = play([load(), run(), END], pokes={4: poke}, moved_from=30)
    assert [cycle for cycle, one in enumerate(played.overrun) if one] == [4]


def test_a_write_while_a_program_runs_changes_nothing():
    sequencer = ProgramSequencer(CONFIG)
    sink = Sink(sequencer.loads)

    async def bench(ctx):
        await write(ctx, sequencer, [END])
        ctx.set(sequencer.control.start, 1)
        await ctx.tick()
        ctx.set(sequencer.control.start, 0)
        await write(ctx, sequencer, [load()])
        ctx.set(sequencer.moved, 1)
        await ctx.tick()
        ctx.set(sequencer.control.start, 1)
        for cycle in range(10):
            exchange(ctx, [sink], cycle)
            await ctx.tick()
            ctx.set(sequencer.control.start, 0)
        assert not ctx.get(sequencer.control.running)

    simulate(sequencer, bench)
    assert sink.taken == []


@pytest.mark.parametrize(("address", "overruns"), [(4 * DEPTH - 1, False), (4 * DEPTH, True), ((1 << 18) - 1, True)])
def test_a_write_past_the_memory_is_an_overrun(address, overruns):
    played = play([END], pokes={20: {"write": 1, "write_address": address, "write_data": 1}})
    assert any(played.overrun) is overruns


def test_a_halted_sequencer_begins_nothing():
    sequencer = ProgramSequencer(CONFIG)

    async def bench(ctx):
        await write(ctx, sequencer, [load(), END])
        ctx.set(sequencer.halt, 1)
        ctx.set(sequencer.control.start, 1)
        await ctx.tick().repeat(5)
        assert not ctx.get(sequencer.control.running)
        assert not ctx.get(sequencer.loads.valid)

    simulate(sequencer, bench)
