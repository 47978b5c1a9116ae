"""The far ends of the accelerator's buses: AXI4-Streams, and its registers over AXI4-Lite or Wishbone.

As in `flexcim_sim.bench.ends.streams`, nothing here waits for a stream: one coroutine (``AcceleratorBench``) wakes once
per clock edge and calls ``step`` of each end. Registers are accessed one at a time, by coroutines of their own.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Set
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flexcim.accelerator.stream_cycles import NextCycle
from flexcim.errors import FlexCiMError
from flexcim_sim.bench.ends.streams import ContractError, level

__all__ = ["Axi4LiteMaster", "AxiSink", "AxiSource", "RegisterAccessError", "RegisterMaster", "WishboneMaster"]

_PATIENCE = 16
"""Cycles in which the registers answer at the latest."""


class RegisterAccessError(FlexCiMError):
    """The accelerator answered a register access with an error."""


class AxiSource:
    """Drives an input stream.

    Parameters
    ----------
    dut : cocotb handle
        The accelerator.
    name : str
        ``weights`` or ``activations``.

    Attributes
    ----------
    accepted : int
        Words that were taken.
    """

    def __init__(self, dut: Any, name: str) -> None:
        self.name = name
        ports = (getattr(dut, f"s_axis_{name}_t{port}") for port in ("data", "last", "valid", "ready"))
        self._data, self._last, self._valid, self._ready = ports
        self._data.value = self._last.value = 0
        self.restart(np.zeros((0, 1), np.uint8), lambda cycle: cycle)

    def restart(self, words: NDArray[np.uint8], goes: NextCycle, lasts: Set[int] = frozenset()) -> None:
        """Offer other words, from the next step on.

        Parameters
        ----------
        words : ndarray of uint8, [words, bytes]
            The words.
        goes : NextCycle
            In which cycles a new word may be shown.
        lasts : set of int
            Words that carry ``tlast``.
        """
        self._words = [int.from_bytes(word.tobytes(), "little") for word in words]
        self._goes, self._lasts = goes, lasts
        self._shown = False
        self._valid.value = 0
        self.accepted = 0

    @property
    def exhausted(self) -> bool:
        """Whether all words have been taken."""
        return self.accepted == len(self._words)

    @property
    def progress(self) -> str:
        """How far the stream is, in words."""
        return f"{self.name} {self.accepted}/{len(self._words)}"

    def step(self, cycle: int) -> bool:
        """Do what is due at the clock edge that ends ``cycle``; whether a word was taken at it."""
        taken = False
        if self._shown:
            if not level(self._ready, cycle):
                return False
            taken, self._shown = True, False
            self.accepted += 1
        if self.accepted < len(self._words) and self._goes(cycle + 1) == cycle + 1:
            self._data.value = self._words[self.accepted]
            self._last.value = self.accepted in self._lasts
            self._shown = True
        self._valid.value = self._shown
        return taken


class AxiSink:
    """Takes the words of the result stream, and checks that what is offered is known, stays, and does not change.

    Parameters
    ----------
    dut : cocotb handle
        The accelerator.

    Attributes
    ----------
    words : int
        Words taken.
    """

    def __init__(self, dut: Any) -> None:
        ports = (getattr(dut, f"m_axis_results_t{port}") for port in ("data", "keep", "last", "valid", "ready"))
        self._data, self._keep, self._last, self._valid, self._ready = ports
        self._pending: tuple[str, ...] | None = None
        self.words = 0
        self.pause()

    def restart(self, take: Callable[[bytes, bool, int], None], goes: NextCycle) -> None:
        """Start anew, with cycle 0.

        Parameters
        ----------
        take : callable
            Gets the bytes that ``tkeep`` marks, ``tlast`` and the cycle of each word.
        goes : NextCycle
            In which cycles it is ready.
        """
        self._take, self._goes = take, goes
        self._is_ready = goes(0) == 0
        self._ready.value = self._is_ready
        self._pending = None
        self.words = 0

    def pause(self) -> None:
        """Take nothing until a restart."""
        self._is_ready = False
        self._ready.value = 0

    def step(self, cycle: int) -> bool:
        """Do what is due at the clock edge that ends ``cycle``; whether a word was taken at it."""
        taken = False
        if level(self._valid, cycle):
            shown = str(self._data.value), str(self._keep.value), str(self._last.value)
            if self._pending is not None and shown != self._pending:
                raise ContractError(f"cycle {cycle}: the result stream changed a word before it was taken")
            self._pending = None if self._is_ready else shown
            if self._is_ready:
                taken = True
                self.words += 1
                self._take(*self._read(shown, cycle), cycle)
        elif self._pending is not None:
            raise ContractError(f"cycle {cycle}: the result stream withdrew a word before it was taken")
        self._is_ready = self._goes(cycle + 1) == cycle + 1
        self._ready.value = self._is_ready
        return taken

    @staticmethod
    def _read(shown: tuple[str, ...], cycle: int) -> tuple[bytes, bool]:
        try:
            keep = int(shown[1], 2)
            kept = shown[0][-8 * keep.bit_length() :]  # what tkeep does not mark may be unknown
            data = int(kept, 2).to_bytes(keep.bit_length(), "little")
            last = bool(int(shown[2], 2))
        except ValueError:
            raise ContractError(f"cycle {cycle}: the result stream offers unknown bits: {shown}") from None
        if keep & (keep + 1) or not keep:
            raise ContractError(f"cycle {cycle}: tkeep is {shown[1]}, with gaps or empty")
        return data, last


class RegisterMaster(ABC):
    """Reads and writes registers.

    Parameters
    ----------
    dut : cocotb handle
        The accelerator.
    prefix : str
        What the names of its register bus begin with.

    Attributes
    ----------
    start_delay : int
        Cycles from the one in which a write is shown to the one in which it acts.
    """

    start_delay = 0

    def __init__(self, dut: Any, prefix: str) -> None:
        self._dut, self._prefix = dut, prefix
        self._edge = dut.clk.rising_edge

    def _port(self, name: str) -> Any:
        return getattr(self._dut, f"{self._prefix}{name}")

    def _is(self, name: str) -> bool:
        return level(self._port(name), 0)

    @abstractmethod
    def show_write(self, address: int, value: int) -> None:
        """Show a full write; it must be withdrawn after the next edge."""

    @abstractmethod
    def withdraw(self) -> None:
        """Show no access any more."""

    @abstractmethod
    async def read(self, address: int) -> int:
        """The value of a register; RegisterAccessError if the accelerator refuses."""

    @abstractmethod
    async def write(self, address: int, value: int) -> None:
        """Write a register; RegisterAccessError if the accelerator refuses."""


class Axi4LiteMaster(RegisterMaster):
    """Over AXI4-Lite."""

    start_delay = 1

    def __init__(self, dut: Any, prefix: str = "s_axil_") -> None:
        super().__init__(dut, prefix)
        for name in ("awaddr", "awprot", "wdata", "wstrb", "araddr", "arprot", "arvalid"):
            self._port(name).value = 0
        self._port("bready").value = self._port("rready").value = 1
        self.withdraw()

    def show_write(self, address: int, value: int, strobes: int = 15) -> None:
        """Show a write; it must be withdrawn after the next edge."""
        self._port("awaddr").value, self._port("wdata").value = address, value
        self._port("wstrb").value = strobes
        self._port("awvalid").value = self._port("wvalid").value = 1

    def withdraw(self) -> None:
        """Show no write any more."""
        self._port("awvalid").value = self._port("wvalid").value = 0

    async def write(self, address: int, value: int, strobes: int = 15) -> None:
        """Write a register; RegisterAccessError if the accelerator refuses."""
        self.show_write(address, value, strobes)
        await self._edge
        self.withdraw()
        await self._answer("b", address)

    async def read(self, address: int) -> int:
        """The value of a register; RegisterAccessError if the accelerator refuses."""
        self._port("araddr").value = address
        self._port("arvalid").value = 1
        await self._edge
        self._port("arvalid").value = 0
        return await self._answer("r", address)

    async def _answer(self, channel: str, address: int) -> int:
        for _ in range(_PATIENCE):
            await self._edge
            if self._is(f"{channel}valid"):
                if self._port(f"{channel}resp").value.to_unsigned():
                    raise RegisterAccessError(f"the access to {address:#x} was refused")
                return int(self._port("rdata").value.to_unsigned()) if channel == "r" else 0
        raise ContractError(f"the access to {address:#x} was not answered")


class WishboneMaster(RegisterMaster):
    """Over Wishbone B4 classic."""

    def __init__(self, dut: Any, prefix: str = "wb_") -> None:
        super().__init__(dut, prefix)
        for name in ("we_i", "adr_i", "sel_i", "dat_i"):
            self._port(name).value = 0
        self.withdraw()

    def show_write(self, address: int, value: int) -> None:
        """Show a write; it must be withdrawn after the next edge."""
        self._show(address, 1)
        self._port("dat_i").value = value

    def withdraw(self) -> None:
        """Show no access any more."""
        self._port("cyc_i").value = self._port("stb_i").value = 0

    def _show(self, address: int, write: int, strobes: int = 15) -> None:
        self._port("adr_i").value, self._port("we_i").value = address, write
        self._port("sel_i").value = strobes
        self._port("cyc_i").value = self._port("stb_i").value = 1

    async def write(self, address: int, value: int, strobes: int = 15) -> None:
        """Write a register; RegisterAccessError if the accelerator refuses."""
        self._show(address, 1, strobes)
        self._port("dat_i").value = value
        await self._answer(address)

    async def read(self, address: int) -> int:
        """The value of a register; RegisterAccessError if the accelerator refuses."""
        self._show(address, 0)
        await self._answer(address)
        return int(self._port("dat_o").value.to_unsigned())

    async def _answer(self, address: int) -> None:
        for _ in range(_PATIENCE):
            await self._edge
            acknowledged, refused = self._is("ack_o"), self._is("err_o")
            if acknowledged or refused:
                self.withdraw()
                if refused:
                    raise RegisterAccessError(f"the access to {address:#x} was refused")
                return
        raise ContractError(f"the access to {address:#x} was not answered")
