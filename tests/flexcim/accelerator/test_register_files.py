"""The C header, the Python driver and the Markdown table say what the register map says, as all come of it."""

from __future__ import annotations

import re
import subprocess
import types

import pytest

from flexcim.accelerator.instructions import INSTRUCTION_FIELDS, AcceleratorError, Opcode, RunTiles, encode
from flexcim.accelerator.register_files import c_header, markdown, python_driver
from flexcim.accelerator.registers import REGISTERS, constant_fields, register
from flexcim.config.accelerator import AcceleratorConfig
from flexcim.config.pattern import Pattern

CONFIG = AcceleratorConfig(macros=3, activation_memory=77, program_depth=40)
NAME = "engine"
FIELDS = {(entry.name, field.name): (field.low, field.width) for entry in REGISTERS for field in entry.fields}


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
