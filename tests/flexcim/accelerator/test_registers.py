"""The register map: what the description says, and that the decoder does it."""

from __future__ import annotations

from amaranth.hdl import ResetInserter, Signal

from flexcim.accelerator.registers import ADDRESS_BITS, REGISTERS, constant_fields, register
from flexcim.config.accelerator import AcceleratorConfig
from flexcim_hw.accelerator.accelerator import Accelerator
from flexcim_hw.accelerator.register_file import RegisterFile, field_port
from tests.support.simulation import CONFIGS, simulate

CONFIG = AcceleratorConfig(macros=3, activation_memory=77, program_depth=40)


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
