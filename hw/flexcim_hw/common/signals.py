"""Named values, shifters and delay lines."""

from __future__ import annotations

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value

__all__ = ["delay", "named", "shift_left", "shift_right"]


def named(m: Module, name: str, value: Value) -> Signal:
    """The value as a signal of its own: computed once however often it is read, and found in waveforms."""
    signal = Signal(value.shape(), name=name)
    m.d.comb += signal.eq(value)
    return signal


def shift_left(m: Module, name: str, value: Value, places: Value, unit: int, width: int) -> Value:
    """The value shifted to the left by ``places`` units of so many bits, in ``width`` bits.

    Words of thousands of bits move in one step for each bit of ``places``: of a variable shift, Amaranth compares each
    bit that comes out with each that goes in, which takes seconds.
    """
    for step in range(len(places)):
        value = named(m, f"{name}_{step}", Mux(places[step], Cat(Const(0, unit << step), value)[:width], value))
    return value[:width]


def shift_right(m: Module, name: str, value: Value, places: Value, unit: int) -> Value:
    """The value shifted to the right by ``places`` units of so many bits, with zeros from the left; in steps, as by
    `shift_left`."""
    for step in range(len(places)):
        value = named(m, f"{name}_{step}", Mux(places[step], value[unit << step :], value))
    return value


def delay(m: Module, signal: Signal, cycles: int, *, reset_less: bool = True) -> Signal:
    """The signal as it was some cycles ago.

    Parameters
    ----------
    m : Module
        The module that holds the registers, named after the signal.
    signal : Signal
        What is delayed.
    cycles : int
        Registers in a row.
    reset_less : bool
        False for strobes, which must not appear out of nothing after a reset.
    """
    name = signal.name
    for stage in range(1, cycles + 1):
        register = Signal(signal.shape(), name=f"{name}_{stage}", reset_less=reset_less)
        m.d.sync += register.eq(signal)
        signal = register
    return signal
