"""The accelerator's registers, decoded as `flexcim.accelerator.registers` describes them."""

from __future__ import annotations

from amaranth.hdl import Module, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from flexcim.accelerator.registers import ADDRESS_BITS, REGISTERS, constant_fields
from flexcim.config.accelerator import AcceleratorConfig

__all__ = ["RegisterFile", "field_port", "register_bus"]


def register_bus() -> dict[str, wiring.Member]:
    """What a bus bridge and the register file say to each other: one write and one read in a cycle."""
    return {
        "write": In(1),
        "write_address": In(ADDRESS_BITS),
        "write_data": In(32),
        "write_known": Out(1),
        "read_address": In(ADDRESS_BITS),
        "read_data": Out(32),
        "read_known": Out(1),
    }


def field_port(register: str, field: str) -> str:
    """The register file's port of a field."""
    return f"{register}_{field}".lower()


class RegisterFile(wiring.Component):
    """Decodes addresses. A read is combinational, a write acts in its cycle.

    Parameters
    ----------
    config : AcceleratorConfig
        The instance.

    Members
    -------
    write, write_address, write_data, write_known : In(1), In(8), In(32), Out(1)
        A write; whether the address can be written.
    read_address, read_data, read_known : In(8), Out(32), Out(1)
        A read; whether the address can be read.
    <register>_<field> : In or Out
        Fields of ``ro`` registers are inputs, but for constants, which have no port; those of ``rw`` and ``wo`` are
        outputs. The latter are 0 but in the cycle of a write.
    <register>_written : Out(1)
        With this cycle a ``wo`` register is written.
    """

    def __init__(self, config: AcceleratorConfig) -> None:
        self._constants = constant_fields(config)
        members = register_bus()
        for register in REGISTERS:
            for field in register.fields:
                if (register.name, field.name) not in self._constants:
                    flow = In if register.access == "ro" else Out
                    members[field_port(register.name, field.name)] = flow(field.width)
            if register.access == "wo":
                members[field_port(register.name, "written")] = Out(1)
        super().__init__(members)

    def elaborate(self, platform: object) -> Module:
        m = Module()
        with m.Switch(self.read_address):
            for register in REGISTERS:
                if register.access == "wo":
                    continue
                with m.Case(register.address):
                    m.d.comb += self.read_known.eq(1)
                    for field in register.fields:
                        constant = self._constants.get((register.name, field.name))
                        value = getattr(self, field_port(register.name, field.name)) if constant is None else constant
                        m.d.comb += self.read_data[field.low : field.low + field.width].eq(value)

        written = {}
        for register in REGISTERS:
            if register.access != "ro":
                written[register.name] = strobe = Signal(name=f"{register.name.lower()}_write")
                here = self.write_address == register.address
                m.d.comb += strobe.eq(self.write & here)
                with m.If(here):
                    m.d.comb += self.write_known.eq(1)
        for register in REGISTERS:
            if register.access == "ro":
                continue
            if register.access == "wo":
                m.d.comb += getattr(self, field_port(register.name, "written")).eq(written[register.name])
            for field in register.fields:
                port = getattr(self, field_port(register.name, field.name))
                value = self.write_data[field.low : field.low + field.width]
                domain = m.d.comb if register.access == "wo" else m.d.sync
                with m.If(written[register.name]):
                    domain += port.eq(value)
                if register.steps_after:
                    with m.If(written[register.steps_after]):
                        m.d.sync += port.eq(port + 1)
        return m
