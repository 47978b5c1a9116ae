"""From AXI4-Lite or Wishbone to the register file."""

from __future__ import annotations

from amaranth.hdl import Module, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from flexcim.accelerator.registers import ADDRESS_BITS
from flexcim_hw.accelerator.register_file import register_bus

__all__ = ["AXI4_LITE_PORTS", "WISHBONE_PORTS", "Axi4LiteBridge", "WishboneBridge"]

_SLVERR = 0b10

AXI4_LITE_PORTS: dict[str, wiring.Member] = {
    "awaddr": In(ADDRESS_BITS),
    "awprot": In(3),
    "awvalid": In(1),
    "awready": Out(1),
    "wdata": In(32),
    "wstrb": In(4),
    "wvalid": In(1),
    "wready": Out(1),
    "bresp": Out(2),
    "bvalid": Out(1),
    "bready": In(1),
    "araddr": In(ADDRESS_BITS),
    "arprot": In(3),
    "arvalid": In(1),
    "arready": Out(1),
    "rdata": Out(32),
    "rresp": Out(2),
    "rvalid": Out(1),
    "rready": In(1),
}
"""AXI4-Lite, as a subordinate sees it."""

WISHBONE_PORTS: dict[str, wiring.Member] = {
    "cyc_i": In(1),
    "stb_i": In(1),
    "we_i": In(1),
    "adr_i": In(ADDRESS_BITS),
    "sel_i": In(4),
    "dat_i": In(32),
    "dat_o": Out(32),
    "ack_o": Out(1),
    "err_o": Out(1),
}
"""Wishbone B4 classic, as a device sees it; ``adr_i`` counts bytes."""


def _file_side() -> dict[str, wiring.Member]:
    """The register file's bus from the bridge's side."""
    return {name: member.flip() for name, member in register_bus().items()}


class Axi4LiteBridge(wiring.Component):
    """One write and one read at a time, independent of each other.

    Every output comes from a register. A write acts in the cycle after the later of its address and its data is taken,
    and is answered in the next; so is a read after its address.

    Members
    -------
    awaddr ... rready : In, Out
        `AXI4_LITE_PORTS`.
    write ... read_known : Out, In
        The register file's bus.
    """

    def __init__(self) -> None:
        super().__init__({**AXI4_LITE_PORTS, **_file_side()})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        self._build_write(m)
        self._build_read(m)
        return m

    def _build_write(self, m: Module) -> None:
        address_held = Signal()
        data_held = Signal()
        whole = Signal()
        act = Signal(name="write_acts")
        m.d.comb += [
            self.awready.eq(~address_held),
            self.wready.eq(~data_held),
            act.eq(address_held & data_held & ~self.bvalid),
            self.write.eq(act & whole),
        ]
        with m.If(self.awvalid & self.awready):
            m.d.sync += [address_held.eq(1), self.write_address.eq(self.awaddr)]
        with m.If(self.wvalid & self.wready):
            m.d.sync += [data_held.eq(1), self.write_data.eq(self.wdata), whole.eq(self.wstrb.all())]
        with m.If(self.bvalid & self.bready):
            m.d.sync += self.bvalid.eq(0)
        with m.If(act):
            m.d.sync += [address_held.eq(0), data_held.eq(0), self.bvalid.eq(1), self.bresp.eq(_SLVERR)]
            with m.If(whole & self.write_known):
                m.d.sync += self.bresp.eq(0)

    def _build_read(self, m: Module) -> None:
        held = Signal(name="read_held")
        m.d.comb += self.arready.eq(~held)
        with m.If(self.arvalid & self.arready):
            m.d.sync += [held.eq(1), self.read_address.eq(self.araddr)]
        with m.If(self.rvalid & self.rready):
            m.d.sync += self.rvalid.eq(0)
        with m.If(held & ~self.rvalid):
            m.d.sync += [held.eq(0), self.rvalid.eq(1), self.rdata.eq(self.read_data), self.rresp.eq(_SLVERR)]
            with m.If(self.read_known):
                m.d.sync += self.rresp.eq(0)


class WishboneBridge(wiring.Component):
    """Classic cycles with a registered answer: an access acts in its first cycle, and is answered in the next.

    Members
    -------
    cyc_i ... err_o : In, Out
        `WISHBONE_PORTS`.
    write ... read_known : Out, In
        The register file's bus.
    """

    def __init__(self) -> None:
        super().__init__({**WISHBONE_PORTS, **_file_side()})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        act = Signal()
        known = Signal()
        m.d.comb += [
            act.eq(self.cyc_i & self.stb_i & ~self.ack_o & ~self.err_o),
            known.eq(self.read_known),
            self.write_address.eq(self.adr_i),
            self.read_address.eq(self.adr_i),
            self.write_data.eq(self.dat_i),
            self.write.eq(act & self.we_i & self.sel_i.all()),
        ]
        with m.If(self.we_i):
            m.d.comb += known.eq(self.write_known & self.sel_i.all())
        m.d.sync += [self.ack_o.eq(act & known), self.err_o.eq(act & ~known), self.dat_o.eq(self.read_data)]
        return m
