"""From AXI4-Lite or Wishbone to the register file."""

from __future__ import annotations

from amaranth.hdl import Module, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from flexcim.accelerator.registers import ADDRESS_BITS
from flexcim_hw.accelerator.register_file import RegisterAccess
from flexcim_hw.common.buses import Axi4Lite, Wishbone

__all__ = ["Axi4LiteBridge", "WishboneBridge"]

_SLVERR = 0b10


class Axi4LiteBridge(wiring.Component):
    """One write and one read at a time, independent of each other.

    Every output comes from a register. A write acts in the cycle after the later of its address and its data is taken,
    and is answered in the next, two cycles after it was taken (`latency`); so is a read after its address. There may be
    one of each every two cycles (`interval`).

    Members
    -------
    bus : In(Axi4Lite)
        What the host writes and reads by.
    registers : Out(RegisterAccess)
        The register file.
    """

    latency = 2
    interval = 2

    def __init__(self) -> None:
        super().__init__({"bus": In(Axi4Lite(ADDRESS_BITS)), "registers": Out(RegisterAccess())})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        self._build_write(m)
        self._build_read(m)
        return m

    def _build_write(self, m: Module) -> None:
        bus, registers = self.bus, self.registers
        address_held = Signal()
        data_held = Signal()
        whole = Signal()
        act = Signal(name="write_acts")
        m.d.comb += [
            bus.awready.eq(~address_held),
            bus.wready.eq(~data_held),
            act.eq(address_held & data_held & ~bus.bvalid),
            registers.write.eq(act & whole),
        ]
        with m.If(bus.awvalid & bus.awready):
            m.d.sync += [address_held.eq(1), registers.write_address.eq(bus.awaddr)]
        with m.If(bus.wvalid & bus.wready):
            m.d.sync += [data_held.eq(1), registers.write_data.eq(bus.wdata), whole.eq(bus.wstrb.all())]
        with m.If(bus.bvalid & bus.bready):
            m.d.sync += bus.bvalid.eq(0)
        with m.If(act):
            m.d.sync += [address_held.eq(0), data_held.eq(0), bus.bvalid.eq(1), bus.bresp.eq(_SLVERR)]
            with m.If(whole & registers.write_known):
                m.d.sync += bus.bresp.eq(0)

    def _build_read(self, m: Module) -> None:
        bus, registers = self.bus, self.registers
        held = Signal(name="read_held")
        m.d.comb += bus.arready.eq(~held)
        with m.If(bus.arvalid & bus.arready):
            m.d.sync += [held.eq(1), registers.read_address.eq(bus.araddr)]
        with m.If(bus.rvalid & bus.rready):
            m.d.sync += bus.rvalid.eq(0)
        with m.If(held & ~bus.rvalid):
            m.d.sync += [held.eq(0), bus.rvalid.eq(1), bus.rdata.eq(registers.read_data), bus.rresp.eq(_SLVERR)]
            with m.If(registers.read_known):
                m.d.sync += bus.rresp.eq(0)


class WishboneBridge(wiring.Component):
    """Classic cycles with a registered answer: an access acts in its first cycle, and is answered in the next
    (`latency`), so that there may be one every two cycles (`interval`).

    Members
    -------
    bus : In(Wishbone)
        What the host writes and reads by.
    registers : Out(RegisterAccess)
        The register file.
    """

    latency = 1
    interval = 2

    def __init__(self) -> None:
        super().__init__({"bus": In(Wishbone(ADDRESS_BITS)), "registers": Out(RegisterAccess())})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        bus, registers = self.bus, self.registers
        act = Signal()
        known = Signal()
        m.d.comb += [
            act.eq(bus.cyc_i & bus.stb_i & ~bus.ack_o & ~bus.err_o),
            known.eq(registers.read_known),
            registers.write_address.eq(bus.adr_i),
            registers.read_address.eq(bus.adr_i),
            registers.write_data.eq(bus.dat_i),
            registers.write.eq(act & bus.we_i & bus.sel_i.all()),
        ]
        with m.If(bus.we_i):
            m.d.comb += known.eq(registers.write_known & bus.sel_i.all())
        m.d.sync += [bus.ack_o.eq(act & known), bus.err_o.eq(act & ~known), bus.dat_o.eq(registers.read_data)]
        return m
