"""How wide tables are, and what of a long run is shown where."""

from __future__ import annotations

import os
import pty
import subprocess
import sys

import pytest

from flexcim.cli.console import shown_steps, table_console


def test_a_table_has_room_where_nobody_says_how_much(monkeypatch):
    monkeypatch.delenv("COLUMNS", raising=False)
    for name in ("FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
        monkeypatch.delenv(name, raising=False)
    assert table_console().width == 175
    monkeypatch.setenv("COLUMNS", "90")
    assert table_console().width == 90


def test_a_pipe_gets_the_lines_and_no_bar(capsys, monkeypatch):
    for name in ("FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
        monkeypatch.delenv(name, raising=False)
    with shown_steps() as steps:
        steps.expect(2)
        steps.done("first [bold]")
        steps.tell("done: first [bold], which is a line of its own however long it may get " + "x" * 200)
        steps.show("second", 1, 2)
        steps.done()
    out, err = capsys.readouterr()
    assert out == ""
    assert err == "done: first [bold], which is a line of its own however long it may get " + "x" * 200 + "\n"


SCRIPT = """
from flexcim.cli.console import shown_steps
with shown_steps(3) as steps:
    steps.done("layer [a]")
    steps._progress.refresh()
    steps.show("layer b", 2, 3)
    steps._progress.refresh()
"""


@pytest.mark.skipif(sys.platform == "win32", reason="this system has no pseudo-terminals")
def test_a_terminal_gets_a_bar():
    reader, writer = pty.openpty()
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "100"}
    subprocess.run([sys.executable, "-c", SCRIPT], stderr=writer, env=environment, check=True)
    os.close(writer)
    shown = b""
    while chunk := _read(reader):
        shown += chunk
    for text in (b"1/3", b"layer [a]", b"2/3", b"layer b"):
        assert text in shown


def _read(reader: int) -> bytes:
    try:
        return os.read(reader, 4096)
    except OSError:  # Linux's way to say that the other end is closed
        return b""
