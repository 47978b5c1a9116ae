"""The register file: a random walk of reads and writes against a model of the register map.

That each field is at its bits is tested in tests/flexcim/accelerator/test_registers.py, beside the files made of it.
"""

from __future__ import annotations

import numpy as np

from flexcim.accelerator.registers import ADDRESS_BITS, REGISTERS, constant_fields
from flexcim.config.accelerator import AcceleratorConfig
from flexcim_hw.accelerator.register_file import RegisterFile, field_port
from tests.support.simulation import simulate

CONFIG = AcceleratorConfig(macros=2, activation_memory=33, program_depth=50)
BY_ADDRESS = {register.address: register for register in REGISTERS}


class Model:
    """What registers hold that can be written, and what those that can be read show."""

    def __init__(self, config):
        self.constants = constant_fields(config)
        self.kept = {(r.name, f.name): 0 for r in REGISTERS if r.access == "rw" for f in r.fields}
        shown = {(r.name, f.name): f.width for r in REGISTERS if r.access == "ro" for f in r.fields}
        self.widths = {key: width for key, width in shown.items() if key not in self.constants}
        self.shown = dict.fromkeys(self.widths, 0)

    def read(self, address):
        """Known or not, and the word."""
        register = BY_ADDRESS.get(address)
        if register is None or register.access == "wo":
            return 0, 0
        values = {**self.shown, **self.kept, **self.constants}
        return 1, sum(values[register.name, field.name] << field.low for field in register.fields)

    def write(self, address, word):
        """Whether it is known."""
        register = BY_ADDRESS.get(address)
        if register is None or register.access == "ro":
            return 0
        for field in register.fields:
            if register.access == "rw":
                self.kept[register.name, field.name] = (word & field.mask) >> field.low
        for stepped in REGISTERS:
            if stepped.steps_after == register.name:
                for field in stepped.fields:
                    key = stepped.name, field.name
                    self.kept[key] = (self.kept[key] + 1) % (1 << field.width)
        return 1


def test_a_random_walk_is_as_the_model_says():
    """Reads and writes in one cycle, of all addresses, with the hardware's values changing under them."""
    rng = np.random.default_rng(111)
    registers, model = RegisterFile(CONFIG), Model(CONFIG)
    access = registers.access
    known = set()

    async def bench(ctx):
        for _ in range(1500):
            for key, width in model.widths.items():
                if rng.random() < 0.3:
                    model.shown[key] = int(rng.integers(1 << width))
                    ctx.set(getattr(registers, field_port(*key)), model.shown[key])
            read, wrote = (int(rng.choice([*BY_ADDRESS, int(rng.integers(1 << ADDRESS_BITS))])) for _ in range(2))
            word, writes = int(rng.integers(1 << 32)), bool(rng.random() < 0.6)
            ctx.set(access.read_address, read)
            ctx.set(access.write_address, wrote)
            ctx.set(access.write_data, word)
            ctx.set(access.write, writes)
            assert (ctx.get(access.read_known), ctx.get(access.read_data)) == model.read(read), read
            for register in REGISTERS:
                if register.access == "wo":
                    here = writes and wrote == register.address
                    assert ctx.get(getattr(registers, field_port(register.name, "written"))) == here
                    for field in register.fields:
                        value = (word & field.mask) >> field.low if here else 0
                        assert ctx.get(getattr(registers, field_port(register.name, field.name))) == value
            # Whether an address can be written does not depend on a write.
            writable = ctx.get(access.write_known)
            assert writable == (wrote in BY_ADDRESS and BY_ADDRESS[wrote].access != "ro")
            if writes:
                assert model.write(wrote, word) == writable
            known.add((read in BY_ADDRESS, writes, writable))
            await ctx.tick()
            for key, value in model.kept.items():
                assert ctx.get(getattr(registers, field_port(*key))) == value

    simulate(registers, bench)
    assert len(known) == 8


def _address(name):
    return next(register.address for register in REGISTERS if register.name == name)


def test_a_read_is_answered_in_its_cycle_and_a_write_seen_in_the_next_one():
    registers = RegisterFile(CONFIG)
    entry = _address("PROGRAM_ENTRY")
    access, seen = registers.access, []

    async def bench(ctx):
        ctx.set(access.read_address, entry)
        ctx.set(access.write_address, entry)
        for value in (5, 6, 7, 8):
            ctx.set(access.write, 1)
            ctx.set(access.write_data, value)
            seen.append(ctx.get(access.read_data))
            await ctx.tick()

    simulate(registers, bench)
    assert (RegisterFile.latency, RegisterFile.interval) == (0, 1)
    assert seen == [0, 5, 6, 7]
