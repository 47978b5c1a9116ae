"""The register map: the decoder, the C header, the Python driver and the Markdown table agree, as all come of one
description."""

from __future__ import annotations

import re
import subprocess
import types

import pytest
from amaranth.hdl import ResetInserter, Signal

from flexcim.accelerator.instructions import INSTRUCTION_FIELDS, AcceleratorError, Opcode, RunTiles, encode
from flexcim.accelerator.register_files import c_header, markdown, python_driver
from flexcim.accelerator.registers import ADDRESS_BITS, REGISTERS, constant_fields, register
from flexcim.config.accelerator import AcceleratorConfig
from flexcim.config.pattern import Pattern
from flexcim_hw.accelerator.accelerator import Accelerator
from flexcim_hw.accelerator.register_file import RegisterFile, field_port
from tests.support.simulation import CONFIGS, simulate

CONFIG = AcceleratorConfig(macros=3, activation_memory=77, program_depth=40)
NAME = "engine"
FIELDS = {(entry.name, field.name): (field.low, field.width) for entry in REGISTERS for field in entry.fields}


# --- The description -------------------------------------------------------------------------------------------------


def test_registers_lie_at_addresses_of_their_own_and_fields_beside_each_other():
    addresses = [entry.address for entry in REGISTERS]
    assert addresses == sorted(set(addresses))
    assert all(address % 4 == 0 and address < 1 << ADDRESS_BITS for address in addresses)
    for entry in REGISTERS:
        masks = [field.mask for field in entry.fields]
        assert sum(masks) < 1 << 32
        assert all(not masks[i] & masks[j] for i in range(len(masks)) for j in range(i))
    assert register("STATUS").fields[2].name == "error"


# --- The decoder -----------------------------------------------------------------------------------------------------


def test_the_decoder_is_as_described():
    """Each register is read and written at its address, each field at its bits, and at no other address."""
    registers = RegisterFile(CONFIG)
    constants = constant_fields(CONFIG)

    async def bench(ctx):
        for entry in REGISTERS:
            ctx.set(registers.access.read_address, entry.address)
            assert ctx.get(registers.access.read_known) == (entry.access != "wo")
            ctx.set(registers.access.write_address, entry.address)
            assert ctx.get(registers.access.write_known) == (entry.access != "ro")
            for field in entry.fields:
                name = field_port(entry.name, field.name)
                if (entry.name, field.name) in constants:
                    assert (
                        ctx.get(registers.access.read_data) & field.mask
                        == constants[entry.name, field.name] << field.low
                    )
                elif entry.access == "ro":
                    before = ctx.get(registers.access.read_data)
                    ctx.set(getattr(registers, name), -1)
                    assert ctx.get(registers.access.read_data) == before | field.mask
                else:
                    ctx.set(registers.access.write, 1)
                    ctx.set(registers.access.write_data, field.mask)
                    at_once = ctx.get(getattr(registers, name))
                    await ctx.tick()
                    ctx.set(registers.access.write, 0)
                    full = (1 << field.width) - 1
                    expected = (full, 0) if entry.access == "wo" else (0, full)
                    assert (at_once, ctx.get(getattr(registers, name))) == expected
                    if entry.access == "rw":
                        assert ctx.get(registers.access.read_data) == field.mask
        for address in set(range(1 << ADDRESS_BITS)) - {entry.address for entry in REGISTERS}:
            ctx.set(registers.access.read_address, address)
            ctx.set(registers.access.write_address, address)
            assert (ctx.get(registers.access.read_known), ctx.get(registers.access.write_known)) == (0, 0)

    simulate(registers, bench)


def test_the_program_address_steps():
    registers = RegisterFile(CONFIG)

    async def bench(ctx):
        async def write(name, value):
            ctx.set(registers.access.write, 1)
            ctx.set(registers.access.write_address, register(name).address)
            ctx.set(registers.access.write_data, value)
            await ctx.tick()
            ctx.set(registers.access.write, 0)

        await write("PROGRAM_ADDRESS", 6)
        for _ in range(3):
            await write("PROGRAM_DATA", 0)
            await write("INTERRUPT", 0)
        assert ctx.get(registers.program_address_word) == 9

    simulate(registers, bench)


def test_after_a_reset_all_registers_have_the_values_that_the_files_give():
    """Read through the bus, before and after a program that fails and everything that can be written."""
    config = AcceleratorConfig(macro=CONFIGS["serial"], activation_memory=5, program_depth=9)
    reset = Signal()
    accelerator = Accelerator(config)
    constants = constant_fields(config)

    async def bench(ctx):
        async def write(name, value):
            for port, driven in (("awvalid", 1), ("wvalid", 1), ("wstrb", 15), ("bready", 1), ("wdata", value)):
                ctx.set(getattr(accelerator, f"s_axil_{port}"), driven)
            ctx.set(accelerator.s_axil_awaddr, register(name).address)
            taken = False
            while not ctx.get(accelerator.s_axil_bvalid):
                taken |= bool(ctx.get(accelerator.s_axil_awready & accelerator.s_axil_wready))
                await ctx.tick()
                ctx.set(accelerator.s_axil_awvalid, not taken)
                ctx.set(accelerator.s_axil_wvalid, not taken)
            assert not ctx.get(accelerator.s_axil_bresp)
            await ctx.tick()

        async def values():
            found: dict[tuple[str, str], int] = {}
            ctx.set(accelerator.s_axil_rready, 1)
            for entry in (entry for entry in REGISTERS if entry.access != "wo"):
                ctx.set(accelerator.s_axil_araddr, entry.address)
                ctx.set(accelerator.s_axil_arvalid, 1)
                await ctx.tick()
                while not ctx.get(accelerator.s_axil_rvalid):
                    ctx.set(accelerator.s_axil_arvalid, 0)
                    await ctx.tick()
                ctx.set(accelerator.s_axil_arvalid, 0)
                word = ctx.get(accelerator.s_axil_rdata)
                found |= {(entry.name, field.name): (word & field.mask) >> field.low for field in entry.fields}
                await ctx.tick()
            return found

        fresh = await values()
        assert {place: value for place, value in fresh.items() if value} == {
            place: value for place, value in constants.items() if value
        }
        for entry in REGISTERS:
            if entry.access == "rw":
                await write(entry.name, 0xFFFF_FFFF)
        await write("PROGRAM_ENTRY", config.program_depth)
        await write("CONTROL", 1)
        changed = await values()
        assert {name for (name, _), value in changed.items() if value != fresh[name, _]} == {
            *("INTERRUPT", "STATUS", "ERROR", "PROGRAM_ENTRY", "PROGRAM_ADDRESS", "POSITION", "CYCLES")
        }
        ctx.set(reset, 1)
        await ctx.tick()
        ctx.set(reset, 0)
        assert await values() == fresh

    simulate(ResetInserter(reset)(accelerator), bench)


# --- The C header ----------------------------------------------------------------------------------------------------


def test_the_header_names_all_addresses_fields_errors_and_instructions():
    defines = dict(re.findall(r"^#define (\w+) (\w+)", c_header(CONFIG, NAME), flags=re.MULTILINE))
    values = {name: int(value.rstrip("u"), 0) for name, value in defines.items() if value[0].isdigit()}
    expected = {f"ENGINE_{entry.name}": entry.address for entry in REGISTERS}
    for entry in REGISTERS:
        for field in entry.fields:
            prefix = f"ENGINE_{entry.name}_{field.name.upper()}"
            expected |= {f"{prefix}_LOW": field.low, f"{prefix}_MASK": field.mask}
    for (name, part), value in constant_fields(CONFIG).items():
        expected[f"ENGINE_{name}_{part.upper()}_VALUE"] = value
    expected |= {f"ENGINE_KIND_{kind.name}": int(kind) for kind in AcceleratorError}
    for op, fields in INSTRUCTION_FIELDS.items():
        expected[f"ENGINE_OP_{op.name}"] = int(op)
        for part, (low, width) in fields.items():
            if part != "op":
                expected |= {
                    f"ENGINE_{op.name}_{part.upper()}_LOW": low,
                    f"ENGINE_{op.name}_{part.upper()}_WIDTH": width,
                }
    assert values == expected


C_PROGRAM = """
#include <stdio.h>
#include "engine.h"
static uint32_t read(void *context, uint32_t address) {
  (void)context;
  printf("read %u\\n", (unsigned)address);
  return address == ENGINE_STATUS ? ENGINE_STATUS_ERROR_MASK : 0xfff5;
}
static void write(void *context, uint32_t address, uint32_t value) {
  (void)context;
  printf("write %u %u\\n", (unsigned)address, (unsigned)value);
}
int main(void) {
  engine_bus bus = {read, write, 0};
  uint32_t run[4] = {ENGINE_OP_RUN, 0, 0, 0};
SETTINGS
  engine_write_program(&bus, 5, run, 1);
  engine_start(&bus, 5);
  printf("%u\\n", (unsigned)engine_wait(&bus));
  for (uint32_t kind = 0; kind <= KINDS; kind++) printf("%s\\n", engine_kind_name(kind));
  engine_reset(&bus);
  return 0;
}
"""


def test_the_header_compiles_and_its_functions_do_what_they_say(tmp_path):
    run = RunTiles(
        macros=(0, 2),
        bank=1,
        pattern=Pattern(2, 8),
        groups=2,
        rows=32,
        vectors=7,
        beats=9,
        words=3,
        store=True,
        address=70,
    )
    word = encode(run, CONFIG.macro)
    settings = [
        f"  engine_set(run, ENGINE_RUN_{name.upper()}_LOW, ENGINE_RUN_{name.upper()}_WIDTH, {value});"
        for name, (low, width) in INSTRUCTION_FIELDS[Opcode.RUN].items()
        if name != "op" and (value := word >> low & ((1 << width) - 1))
    ]
    (tmp_path / "engine.h").write_text(c_header(CONFIG, NAME))
    (tmp_path / "main.c").write_text(
        C_PROGRAM.replace("SETTINGS", "\n".join(settings)).replace("KINDS", str(len(AcceleratorError)))
    )
    strict = ["-std=c99", "-Wall", "-Wextra", "-Wpedantic", "-Werror"]
    subprocess.run(["gcc", *strict, "main.c", "-o", "main"], cwd=tmp_path, check=True)
    printed = subprocess.run([tmp_path / "main"], capture_output=True, text=True, check=True).stdout.splitlines()
    address = {entry.name: entry.address for entry in REGISTERS}
    parts = [word >> 32 * index & 0xFFFF_FFFF for index in range(4)]
    assert printed == [
        f"write {address['PROGRAM_ADDRESS']} 20",
        *(f"write {address['PROGRAM_DATA']} {part}" for part in parts),
        f"write {address['PROGRAM_ENTRY']} 5",
        f"write {address['CONTROL']} 1",
        f"read {address['STATUS']}",
        f"read {address['ERROR']}",
        "5",
        *(kind.name.lower() for kind in AcceleratorError),
        "unknown",
        f"write {address['CONTROL']} 2",
    ]


# --- The Python driver -----------------------------------------------------------------------------------------------


@pytest.fixture
def driver():
    """The generated module."""
    module = types.ModuleType(NAME)
    exec(python_driver(CONFIG, NAME), module.__dict__)
    return module


def test_the_driver_knows_the_same(driver):
    assert {name: address for name, (address, _) in driver.REGISTERS.items()} == {
        entry.name: entry.address for entry in REGISTERS
    }
    assert {name: access for name, (_, access) in driver.REGISTERS.items()} == {
        entry.name: entry.access for entry in REGISTERS
    }
    assert driver.FIELDS == FIELDS
    assert dict(constant_fields(CONFIG)) == driver.CONSTANTS
    assert {kind: driver.ERRORS[int(kind)] for kind in AcceleratorError} == {
        kind: kind.name.lower() for kind in AcceleratorError
    }


def test_the_driver_drives(driver):
    """Against a memory of registers."""
    memory: dict[int, int] = {}
    writes = []

    def write(address, value):
        writes.append((address, value))
        memory[address] = value

    engine = driver.Driver(lambda address: memory.get(address, 0), write)
    with pytest.raises(RuntimeError, match=r"ID\.version must be 0x1, not 0x0"):
        engine.check()
    for (name, field), value in constant_fields(CONFIG).items():
        memory[register(name).address] = memory.get(register(name).address, 0) | value << FIELDS[name, field][0]
    engine.check()
    engine.write_program([1, 2], entry=3)
    engine.start(3)
    engine.reset()
    address = {entry.name: entry.address for entry in REGISTERS}
    assert writes == [
        (address["PROGRAM_ADDRESS"], 12),
        (address["PROGRAM_DATA"], 1),
        (address["PROGRAM_DATA"], 2),
        (address["PROGRAM_ENTRY"], 3),
        (address["CONTROL"], 1),
        (address["CONTROL"], 2),
    ]
    memory |= {address["STATUS"]: 2, address["CYCLES"]: 123}
    assert engine.wait() == 123
    memory |= {address["STATUS"]: 4, address["ERROR"]: 7}
    with pytest.raises(RuntimeError, match="the accelerator stopped: packet"):
        engine.wait()
    with pytest.raises(ValueError, match=r"PROGRAM_ENTRY\.instruction must fit 16 bits, not 65536"):
        engine.start(1 << 16)


# --- Markdown --------------------------------------------------------------------------------------------------------


def test_the_table_lists_the_same():
    page = markdown(CONFIG, NAME)
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in page.splitlines() if line[:1] == "|"]
    found, current = {}, ""
    for row in (row for row in cells if len(row) == 6 and not row[0].startswith(("address", "---"))):
        if row[0]:
            current = row[1].strip("*")
            assert int(row[0].strip("`"), 0) == register(current).address
            assert row[2] == {"ro": "read only", "rw": "read and write", "wo": "write only"}[register(current).access]
        else:
            high, _, low = row[3].partition(":")
            found[current, row[4].strip("`")] = (int(low or high), int(high) - int(low or high) + 1)
    assert found == FIELDS
    for kind in AcceleratorError:
        assert [str(int(kind)), f"`{kind.name.lower()}`"] in cells
    for (_, field), value in constant_fields(CONFIG).items():
        assert re.search(rf"`{field}` \| .*; here {value:#x} \|", page)
    for op, fields in INSTRUCTION_FIELDS.items():
        (row,) = [row for row in cells if len(row) == 3 and row[1] == op.name]
        assert row[0] == str(int(op))
        parts = re.findall(r"`(\w+)` (\d+)(?::(\d+))?", row[2])
        places = {part: (int(low or high), int(high) - int(low or high) + 1) for part, high, low in parts}
        assert places == fields
