"""The tests that every accelerator has to pass, run by cocotb in the simulator.

``AcceleratorBench.play`` compares every program with the golden accelerator byte by byte, and with the cycle model
counter by counter, stalls included, so a test only says what is played.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.random import Generator

from flexcim.accelerator.instructions import AcceleratorError
from flexcim.accelerator.registers import REGISTERS, constant_fields
from flexcim.accelerator.stream_cycles import NextCycle, stall_pattern
from flexcim_sim.bench.benches.accelerator import AcceleratorBench
from flexcim_sim.bench.ends.axi import RegisterAccessError
from flexcim_sim.bench.ends.streams import ContractError
from flexcim_sim.bench.played.job import accelerator_test
from flexcim_sim.bench.stimuli.accelerator import RandomPrograms
from flexcim_sim.bench.stimuli.accelerator_illegal import illegal_programs, rounds


def random_goes(rng: Generator) -> Mapping[str, NextCycle]:
    """Each stream never pauses, pauses now and then, often, or in bursts."""
    goes = {}
    for stream in ("weights", "activations", "results"):
        kind = rng.choice(["none", "rare", "often", "bursts"])
        if kind == "bursts":
            spans = rng.integers(1, 30, 40)
            goes[stream] = stall_pattern(np.repeat(np.arange(40) % 2 == 0, spans).tolist())
        elif kind != "none":
            share = 0.2 if kind == "rare" else 0.7
            goes[stream] = stall_pattern([True, *(rng.random(400) >= share).tolist()])
    return goes


@accelerator_test
async def registers(bench: AcceleratorBench, rng: Generator) -> None:
    """Every register reads and writes as it is described, and nothing else answers."""
    constants = constant_fields(bench.config)
    for entry in REGISTERS:
        for field in entry.fields:
            value = constants.get((entry.name, field.name))
            if value is not None and await bench.read(entry.name, field.name) != value:
                raise ContractError(f"{entry.name}.{field.name} must be {value:#x}")
        if entry.access == "rw":
            await bench.registers.write(entry.address, 0xFFFF_FFFF)
            mask = sum(field.mask for field in entry.fields)
            if await bench.read(entry.name) != mask:
                raise ContractError(f"{entry.name} must keep the bits {mask:#x}")
            await bench.registers.write(entry.address, 0)
    known = {entry.address for entry in REGISTERS}
    refused = [(False, address) for address in range(0, 256, 3) if address not in known]
    refused += [(False, entry.address) for entry in REGISTERS if entry.access == "wo"]
    refused += [(True, entry.address) for entry in REGISTERS if entry.access == "ro"]
    for write, address in refused:
        try:
            await (bench.registers.write(address, 0) if write else bench.registers.read(address))
        except RegisterAccessError:
            continue
        raise ContractError(f"a {'write' if write else 'read'} of {address:#x} must be refused")


@accelerator_test
async def programs(bench: AcceleratorBench, rng: Generator) -> None:
    """Random programs that follow each other, at full throughput."""
    random = RandomPrograms(bench.config, rng)
    for _ in range(4):
        await bench.play(random.program(layers=6, max_vectors=6))


@accelerator_test
async def programs_with_stalls(bench: AcceleratorBench, rng: Generator) -> None:
    """The same with pauses on every stream, in the predicted cycles all the same."""
    random = RandomPrograms(bench.config, rng)
    for _ in range(4):
        await bench.play(random.program(layers=6, max_vectors=6), random_goes(rng))


@accelerator_test
async def packets(bench: AcceleratorBench, rng: Generator) -> None:
    """``tlast`` at the end of any image changes nothing, and a program may stand anywhere in its memory."""
    for _ in range(3):
        stimulus = rounds(bench.config, rng, 4)
        lasts = {}
        for name, images in (("weights", stimulus.tiles), ("activations", stimulus.runs)):
            ends = np.cumsum([len(image) for image in images]) - 1
            lasts[name] = set(ends[rng.random(len(ends)) < 0.5].tolist())
        entry = int(rng.integers(bench.config.program_depth - len(stimulus.program) + 1))
        await bench.play(stimulus, random_goes(rng), lasts=lasts, entry=entry)


@accelerator_test
async def resets_in_a_program(bench: AcceleratorBench, rng: Generator) -> None:
    """A reset at any time, by the port or by the register, leaves a clean accelerator."""
    for index in range(4):
        await bench.break_off(RandomPrograms(bench.config, rng).program(6, 6), int(rng.integers(1, 300)))
        await (bench.reset() if index % 2 else bench.soft_reset())
        await bench.play(RandomPrograms(bench.config, rng).program(layers=2, max_vectors=4))
        await bench.reset()


@accelerator_test
async def refusals(bench: AcceleratorBench, rng: Generator) -> None:
    """Every kind of error, at full throughput and with stalls; a reset clears it."""
    stimulus = rounds(bench.config, rng, 3)
    for index, illegal in enumerate(illegal_programs(stimulus)):
        goes = random_goes(rng) if index % 2 else {}
        await bench.refuse(illegal.words, stimulus, illegal.kind, goes, lasts=illegal.lasts, entry=illegal.entry)
        await bench.soft_reset()
    await bench.play(RandomPrograms(bench.config, rng).program(layers=2, max_vectors=4))


@accelerator_test
async def overruns(bench: AcceleratorBench, rng: Generator) -> None:
    """A start or a write while a program runs, and a write past the memory, are errors."""
    stimulus = rounds(bench.config, rng, 2)
    for name, fields in (("CONTROL", {"start": 1}), ("PROGRAM_DATA", {"word": 0})):
        await bench.break_off(stimulus, 5)
        await bench.write(name, **fields)
        await bench.check_error(AcceleratorError.OVERRUN)
        await bench.soft_reset()
    await bench.write("PROGRAM_ADDRESS", word=4 * bench.config.program_depth)
    await bench.write("PROGRAM_DATA", word=0)
    await bench.check_error(AcceleratorError.OVERRUN)
    await bench.soft_reset()
    await bench.play(stimulus)
