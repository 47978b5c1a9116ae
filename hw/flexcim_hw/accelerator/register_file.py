"""The accelerator's registers, decoded as `flexcim.accelerator.registers` describes them."""

from __future__ import annotations

from amaranth.hdl import Module, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from flexcim.accelerator.registers import ADDRESS_BITS, REGISTERS, constant_fields
from flexcim.config.accelerator import AcceleratorConfig

__all__ = ["RegisterAccess", "RegisterFile", "field_port"]


class RegisterAccess(wiring.Signature):
    """One write and one read in a cycle, from the side of a bus bridge; nothing holds them back, so it is no stream.

    Members
    -------
    write, write_address, write_data : Out(1), Out(8), Out(32)
        A write.
    write_known : In(1)
        Whether that address can be written.
    read_address, read_data : Out(8), In(32)
        A read.
    read_known : In(1)
        Whether that address can be read.
    """

    def __init__(self) -> None:
        super().__init__(
            {
                "write": Out(1),
                "write_address": Out(ADDRESS_BITS),
                "write_data": Out(32),
                "write_known": In(1),
                "read_address": Out(ADDRESS_BITS),
                "read_data": In(32),
                "read_known": In(1),
            }
        )


def field_port(register: str, field: str) -> str:
    """The register file's port of a field."""
    return f"{register}_{field}".lower()


class RegisterFile(wiring.Component):
    """Decodes addresses.

    A read is answered, and a write acts, in its cycle (`latency`); there may be one of each in every cycle
    (`interval`).

    Parameters
    ----------
    config : AcceleratorConfig
        The instance.

    Members
    -------
    access : In(RegisterAccess)
        Reads and writes.
    <register>_<field> : In or Out
        Fields of ``ro`` registers are inputs, but for constants, which have no port; those of ``rw`` and ``wo`` are
        outputs. The latter are 0 but in the cycle of a write.
    <register>_written : Out(1)
        With this cycle a ``wo`` register is written.
    """

    latency = 0
    interval = 1

    def __init__(self, config: AcceleratorConfig) -> None:
        self._constants = constant_fields(config)
        members: dict[str, wiring.Member] = {"access": In(RegisterAccess())}
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
        access = self.access
        with m.Switch(access.read_address):
            for register in REGISTERS:
                if register.access == "wo":
                    continue
                with m.Case(register.address):
                    m.d.comb += access.read_known.eq(1)
                    for field in register.fields:
                        constant = self._constants.get((register.name, field.name))
                        value = getattr(self, field_port(register.name, field.name)) if constant is None else constant
                        m.d.comb += access.read_data[field.low : field.low + field.width].eq(value)

        written = {}
        for register in REGISTERS:
            if register.access != "ro":
                written[register.name] = strobe = Signal(name=f"{register.name.lower()}_write")
                here = access.write_address == register.address
                m.d.comb += strobe.eq(access.write & here)
                with m.If(here):
                    m.d.comb += access.write_known.eq(1)
        for register in REGISTERS:
            if register.access == "ro":
                continue
            if register.access == "wo":
                m.d.comb += getattr(self, field_port(register.name, "written")).eq(written[register.name])
            for field in register.fields:
                port = getattr(self, field_port(register.name, field.name))
                value = access.write_data[field.low : field.low + field.width]
                domain = m.d.comb if register.access == "wo" else m.d.sync
                with m.If(written[register.name]):
                    domain += port.eq(value)
                if register.steps_after:
                    with m.If(written[register.steps_after]):
                        m.d.sync += port.eq(port + 1)
        return m
