"""What holds for all tests."""

from __future__ import annotations

import signal

# A shell lets what it starts in the background ignore the interrupt, and processes hand that on to those they start.
# Tests that interrupt a process would then wait for ever.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
