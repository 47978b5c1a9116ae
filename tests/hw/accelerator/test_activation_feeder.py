"""The activation feeder: each beat goes to all macros of its run in one cycle, from the stream or from the memory."""

from __future__ import annotations

from dataclasses import dataclass, field
from math import gcd

import numpy as np
import pytest

from flexcim.accelerator.bus_words import run_words
from flexcim.accelerator.instructions import AcceleratorError, Opcode
from flexcim.macro.commands import RUN_FIELDS
from flexcim_hw.accelerator.activation_feeder import ActivationFeeder
from tests.support.accelerators import ACCELERATORS
from tests.support.feeders import play_feeder
from tests.support.instructions import image_words, instruction, pausing, random_bits

for_each_accelerator = pytest.mark.parametrize("config", ACCELERATORS.values(), ids=ACCELERATORS)
THREE = ACCELERATORS["three macros, narrow buses"]
WIDE = ACCELERATORS["four macros, wide buses"]


@dataclass
class Runs:
    """Runs: instructions, the bus's words, and what each macro is to get."""

    instructions: list[int] = field(default_factory=list)
    words: list[int] = field(default_factory=list)
    commands: dict[int, list[int]] = field(default_factory=dict)
    beats: dict[int, list[int]] = field(default_factory=dict)
    memory: dict[int, int] = field(default_factory=dict)

    def add(self, config, rng, *, macros, vectors, beats, store_at=None, replay_at=None, **fields):
        """One more run; ``store_at`` and ``replay_at`` are places of the activation memory."""
        bits, address = config.activation_beat_bits, store_at if replay_at is None else replay_at
        if replay_at is None:
            payloads = [random_bits(rng, bits) for _ in range(vectors * beats)]
            image = image_words(rng, payloads, bits, config.activation_bus)
            assert len(image) == run_words(config, vectors, beats)
            self.words += [word | (i == len(image) - 1) << config.activation_bus for i, word in enumerate(image)]
            fields["words"] = len(image)
        else:
            payloads = [self.memory[replay_at + index] for index in range(vectors * beats)]
        if store_at is not None:
            self.memory |= {store_at + index: payload for index, payload in enumerate(payloads)}
        common = {"vectors": vectors, **{name: fields.get(name, 0) for name in RUN_FIELDS if name in fields}}
        self.instructions.append(
            instruction(
                Opcode.RUN,
                macros=sum(1 << macro for macro in macros),
                beats=beats,
                vectors=vectors,
                address=address or 0,
                store=int(store_at is not None),
                replay=int(replay_at is not None),
                **fields,
            )
        )
        place, command = 0, 0
        for name, width in RUN_FIELDS.items():
            command |= common.get(name, 0) << place
            place += width
        for macro in macros:
            self.commands.setdefault(macro, []).append(command)
            self.beats.setdefault(macro, []).extend(
                payload | ((index + 1) % beats == 0) << bits for index, payload in enumerate(payloads)
            )

    @classmethod
    def random(cls, config, rng, count):
        """Runs of all kinds; the first stores, so that there is something to replay."""
        made = cls()
        room = config.activation_memory
        for index in range(count):
            vectors, beats = int(rng.integers(1, 4)), int(rng.integers(1, 4))
            macros = [macro for macro in range(config.macros) if rng.random() < 0.6] or [
                int(rng.integers(config.macros))
            ]
            fields = {
                "bank": int(rng.integers(16)),
                "pattern": int(rng.integers(256)),
                "groups": int(rng.integers(16)),
                "rows": int(rng.integers(1 << 12)),
                **{name: int(rng.integers(2)) for name in ("first_k", "last_k", "release", "end_packet")},
            }
            source = rng.choice(["stream", "store", "replay"]) if index else "store"
            if room and source == "store":
                fields["store_at"] = int(rng.integers(room - vectors * beats + 1))
            elif room and source == "replay":
                at = int(rng.choice(sorted(made.memory)))
                vectors, beats = 1, 1
                while at + beats in made.memory and beats < 3:
                    beats += 1
                fields["replay_at"] = at
            made.add(config, rng, macros=macros, vectors=vectors, beats=beats, **fields)
        return made


def play(config, runs, cycles, pause=lambda: False, halt_from=None):
    feeder = ActivationFeeder(config)
    return play_feeder(feeder, runs, (feeder.run, feeder.activations), cycles, pause, halt_from)


@for_each_accelerator
@pytest.mark.parametrize("share", [0.0, 0.3])
def test_runs_go_to_their_macros_in_order(config, share):
    rng = np.random.default_rng(91)
    runs = Runs.random(config, rng, 16)
    played = play(config, runs, 2000, pausing(rng, share))
    for macro in range(config.macros):
        assert played.commands[macro].payloads == runs.commands.get(macro, [])
        assert played.beats[macro].payloads == runs.beats.get(macro, [])
    assert played.instructions.exhausted
    assert played.words.exhausted
    assert not any(played.errors)
    last = max(sink.cycles[-1] for sink in played.beats if sink.cycles)
    busy = range(played.instructions.taken[0] + 1, last + 1)
    assert [cycle for cycle, idle in enumerate(played.idle) if not idle] == list(busy)


def test_all_macros_of_a_run_take_a_beat_in_the_same_cycle_and_no_other_does():
    rng = np.random.default_rng(92)
    runs = Runs()
    for macros in ([0, 2], [1], [0, 1, 2], [2, 1]):
        runs.add(THREE, rng, macros=macros, vectors=2, beats=2)
    played = play(THREE, runs, 300, pausing(rng, 0.4))
    for sinks in (played.commands, played.beats):
        cycles = [set(sink.cycles) for sink in sinks]
        per_run = 1 if sinks is played.commands else 4
        assert [len(one) for one in cycles] == [2 * per_run, 3 * per_run, 3 * per_run]
        moved = sorted(set.union(*cycles))
        together = [[macro for macro, one in enumerate(cycles) if cycle in one] for cycle in moved]
        assert together[::per_run] == [[0, 2], [1], [0, 1, 2], [1, 2]]


@for_each_accelerator
def test_runs_follow_each_other_in_their_interval(config):
    """A run begins `latency` cycles after its dispatch, and with the last beat of the run before."""
    rng = np.random.default_rng(93)
    runs = Runs()
    vectors, beats = config.activation_bus // gcd(config.activation_bus, config.activation_beat_bits), 2  # whole words
    for _ in range(4):
        runs.add(config, rng, macros=range(config.macros), vectors=vectors, beats=beats)
    assert vectors * beats * config.activation_beat_bits % config.activation_bus == 0
    played = play(config, runs, 4 * (len(runs.words) + vectors * beats) + 20)
    feeder = played.feeder
    begins = played.commands[0].cycles
    assert begins[0] == played.instructions.taken[0] + feeder.latency
    assert np.diff(begins[1:]).tolist() == [feeder.interval(vectors, beats)] * 2
    assert begins[1] == played.beats[0].cycles[vectors * beats - 1]


def test_a_replay_takes_a_beat_in_each_cycle():
    rng = np.random.default_rng(94)
    runs = Runs()
    runs.add(THREE, rng, macros=[0], vectors=3, beats=5, store_at=7)
    for _ in range(3):
        runs.add(THREE, rng, macros=[0, 1], vectors=3, beats=5, replay_at=7)
    played = play(THREE, runs, 300)
    begins = played.commands[0].cycles
    assert played.feeder.interval(3, 5, replay=True) == 15 < played.feeder.interval(3, 5)
    assert np.diff(begins[1:]).tolist() == [15, 15]
    assert played.beats[1].cycles == list(range(begins[1] + 1, begins[1] + 46))
    assert not any(played.stalled[begins[1] + 1 :])


def test_so_many_runs_wait_and_no_more():
    rng = np.random.default_rng(95)
    runs = Runs()
    for _ in range(THREE.run_queue + 4):
        runs.add(THREE, rng, macros=[0], vectors=1, beats=1)
    runs.words = []
    played = play(THREE, runs, 60)
    # One has begun, and waits for its beat.
    assert len(played.instructions.taken) == THREE.run_queue + 1
    assert len(played.commands[0].taken) == 1
    assert played.stalled[-1]


@pytest.mark.parametrize("halt_from", [0, 3, 8])
def test_a_halted_feeder_moves_nothing(halt_from):
    runs = Runs.random(THREE, np.random.default_rng(96), 6)
    played = play(THREE, runs, 60, halt_from=halt_from)
    moved = [*played.words.taken, *(cycle for sink in (*played.commands, *played.beats) for cycle in sink.cycles)]
    assert all(cycle < halt_from for cycle in moved)
    assert not any(played.stalled[halt_from:])


@pytest.mark.parametrize("kind", ["store_at", "replay_at"])
def test_a_run_past_the_memory_is_an_error(kind):
    rng = np.random.default_rng(97)
    runs = Runs()
    room = WIDE.activation_memory
    runs.add(WIDE, rng, macros=[0], vectors=1, beats=room, store_at=0)
    runs.memory |= {room + index: 0 for index in range(3)}
    runs.add(WIDE, rng, macros=[0], vectors=1, beats=4, **{kind: room - 2})
    played = play(WIDE, runs, 120)
    errors = [(cycle, error) for cycle, error in enumerate(played.errors) if error]
    # The last legal beat is taken, and none behind it.
    assert errors[0] == (played.beats[0].cycles[-1] + 1, AcceleratorError.MEMORY)
    assert len(played.beats[0].taken) == room + 2


@pytest.mark.parametrize("more", [1, -1])
def test_more_or_fewer_words_than_the_run_takes_are_an_error(more):
    runs = Runs()
    runs.add(THREE, np.random.default_rng(98), macros=[0, 1], vectors=2, beats=3)
    runs.words = [word & ((1 << THREE.activation_bus) - 1) for word in runs.words] + [0, 0]
    # The field `words` begins word 2 of the instruction.
    runs.instructions[0] += more << 64
    played = play(THREE, runs, 100)
    assert next(filter(None, played.errors)) == AcceleratorError.WORDS


def test_a_last_inside_an_image_is_an_error():
    runs = Runs()
    runs.add(THREE, np.random.default_rng(99), macros=[0], vectors=2, beats=3)
    runs.words[1] |= 1 << THREE.activation_bus
    played = play(THREE, runs, 60)
    assert next(filter(None, played.errors)) == AcceleratorError.ACTIVATIONS_LAST
