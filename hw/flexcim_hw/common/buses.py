"""Standard buses as signatures, each from the side that begins a transfer, and their pins in Verilog.

A standard says how its pins are called: ``s_axis_weights_tdata``, with one underscore behind the bus's name, where
Amaranth would write two. So the pins of a top module are ports of their own, made by `pins`, and `bus` puts them
together again for `connect()`.
"""

from __future__ import annotations

from typing import Any

from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

__all__ = ["Axi4Lite", "Axi4Stream", "Wishbone", "bus", "pins"]


class Axi4Stream(wiring.Signature):
    """AXI4-Stream, from the transmitter.

    Parameters
    ----------
    data_bits : int
        Width of ``tdata``.
    keep : bool
        Whether ``tkeep`` marks the bytes that count; without it, all do.
    """

    def __init__(self, data_bits: int, *, keep: bool = False) -> None:
        members = {"tdata": Out(data_bits)}
        if keep:
            members["tkeep"] = Out(data_bits // 8)
        super().__init__({**members, "tlast": Out(1), "tvalid": Out(1), "tready": In(1)})


class Axi4Lite(wiring.Signature):
    """AXI4-Lite of 32-bit data, from the manager.

    Parameters
    ----------
    address_bits : int
        Width of the addresses, which count bytes.
    """

    def __init__(self, address_bits: int) -> None:
        super().__init__(
            {
                "awaddr": Out(address_bits),
                "awprot": Out(3),
                "awvalid": Out(1),
                "awready": In(1),
                "wdata": Out(32),
                "wstrb": Out(4),
                "wvalid": Out(1),
                "wready": In(1),
                "bresp": In(2),
                "bvalid": In(1),
                "bready": Out(1),
                "araddr": Out(address_bits),
                "arprot": Out(3),
                "arvalid": Out(1),
                "arready": In(1),
                "rdata": In(32),
                "rresp": In(2),
                "rvalid": In(1),
                "rready": Out(1),
            }
        )


class Wishbone(wiring.Signature):
    """Wishbone B4 classic of 32-bit data, from the manager; pins are called as the device calls them.

    Parameters
    ----------
    address_bits : int
        Width of ``adr_i``, which counts bytes.
    """

    def __init__(self, address_bits: int) -> None:
        super().__init__(
            {
                "cyc_i": Out(1),
                "stb_i": Out(1),
                "we_i": Out(1),
                "adr_i": Out(address_bits),
                "sel_i": Out(4),
                "dat_i": Out(32),
                "dat_o": In(32),
                "ack_o": In(1),
                "err_o": In(1),
            }
        )


def pins(name: str, member: wiring.Member) -> dict[str, wiring.Member]:
    """The members of a top module that are the pins of a bus, by their names in Verilog.

    Parameters
    ----------
    name : str
        The bus, such as ``s_axis_weights``.
    member : Member
        ``Out`` of its signature where the module begins transfers, ``In`` where its surroundings do.
    """
    return {f"{name}_{pin}": port for pin, port in member.signature.members.items()}


def bus(component: wiring.Component, name: str, member: wiring.Member) -> Any:
    """The bus that some of a top module's members are the pins of, as the inside of the module sees it."""
    inside = member.signature.flip().create()
    for pin in member.signature.members:
        setattr(inside, pin, getattr(component, f"{name}_{pin}"))
    return inside
