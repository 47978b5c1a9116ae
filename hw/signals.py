"""Named values and delay lines: what travels beside the data through the rigid pipeline."""

from __future__ import annotations

from amaranth.hdl import Module, Signal, Value

__all__ = ["delay", "named"]


def named(m: Module, name: str, value: Value) -> Signal:
    """The value as a signal of its own: computed once however often it is read, and found in waveforms."""
    signal = Signal(value.shape(), name=name)
    m.d.comb += signal.eq(value)
    return signal


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
