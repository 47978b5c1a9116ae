"""The command: its table, lazy loading, exit codes and messages."""

from __future__ import annotations

import ast
import importlib
import importlib.metadata
import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest

from flexcim import cli
from flexcim.accelerator_config import ACCELERATOR_PRESETS
from flexcim.cli import SUBCOMMANDS, Subcommand, main
from flexcim.config import PRESETS

WING = '''
"""A stand-in for a wing's command line."""
import typer
from flexcim.errors import FlexCiMError

def work(count: int = typer.Option(1, help="How many."), fail: str = ""):
    """Do some work."""
    if fail == "error":
        raise FlexCiMError("layer 'q_proj' has 3 weights too many")
    if fail == "interrupt":
        raise KeyboardInterrupt
    if fail == "bug":
        raise RuntimeError("a bug")
    if fail == "exit":
        raise typer.Exit(5)
    print("worked", count)
'''


@pytest.fixture(autouse=True)
def terminal(monkeypatch):
    """A width at which no sentence is broken."""
    monkeypatch.setenv("COLUMNS", "100")


@pytest.fixture
def read(capsys):
    """Both outputs since the last call; without colours, which some environments force."""
    return lambda: [re.sub(r"\x1b\[[\d;]*m", "", text) for text in capsys.readouterr()]


@pytest.fixture
def wing(tmp_path, monkeypatch):
    """The table with one subcommand that works, and one whose module must not be imported."""
    (tmp_path / "stand_in_wing.py").write_text(WING)
    (tmp_path / "broken_wing.py").write_text("raise AssertionError('imported')\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "stand_in_wing", raising=False)
    table = {
        "work": Subcommand("stand_in_wing", "work", "Work, says the table."),
        "broken": Subcommand("broken_wing", "broken", "Break, says the table."),
    }
    monkeypatch.setattr(cli, "SUBCOMMANDS", table)


@pytest.mark.parametrize("name", SUBCOMMANDS)
def test_each_subcommand_is_where_the_table_says(name):
    subcommand = SUBCOMMANDS[name]
    spec = importlib.util.find_spec(subcommand.module)
    assert spec is not None
    assert spec.origin is not None
    tree = ast.parse(Path(spec.origin).read_text(encoding="utf-8"))
    assert subcommand.function in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}


def test_a_subcommand_is_carried_out(wing, read):
    assert main(["work", "--count", "3"]) == 0
    assert read() == ["worked 3\n", ""]


def test_a_subcommand_has_its_own_help(wing, read):
    assert main(["work", "--help"]) == 0
    out, _ = read()
    assert "flexcim work" in out
    assert "Do some work." in out
    assert "How many." in out


@pytest.mark.parametrize("arguments", [["--help"], []])
def test_the_help_names_all_subcommands_and_loads_none(wing, read, arguments):
    assert main(arguments) == (0 if arguments else 2)
    out, _ = read()
    assert "Work, says the table." in out
    assert "Break, says the table." in out
    assert "stand_in_wing" not in sys.modules


def test_a_users_error_is_one_sentence(wing, read):
    assert main(["work", "--fail", "error"]) == 2
    assert read() == ["", "flexcim: layer 'q_proj' has 3 weights too many\n"]


def test_an_interrupt_is_said(wing, read):
    assert main(["work", "--fail", "interrupt"]) == 130
    assert read() == ["", "flexcim: interrupted\n"]


def test_an_interrupt_while_a_wing_is_imported_is_said(wing, read, monkeypatch):
    def interrupted(module):
        raise KeyboardInterrupt

    monkeypatch.setattr(importlib, "import_module", interrupted)
    assert main(["work"]) == 130
    assert read() == ["", "flexcim: interrupted\n"]


def test_a_subcommand_may_choose_its_exit_code(wing):
    assert main(["work", "--fail", "exit"]) == 5


def test_a_bug_keeps_its_traceback(wing):
    hook = sys.excepthook
    with pytest.raises(RuntimeError, match="a bug"):
        main(["work", "--fail", "bug"])
    assert sys.excepthook is hook


@pytest.mark.parametrize("arguments", [["work", "--nope"], ["work", "--count", "x"], ["--nope"]])
def test_wrong_options_are_refused(wing, read, arguments):
    assert main(arguments) == 2
    out, err = read()
    assert "Usage: flexcim" in err
    assert arguments[-1] in err
    assert out == ""


def test_an_unknown_subcommand_is_refused_with_a_suggestion(read):
    assert main(["pruen", "--help"]) == 2
    assert read() == ["", "flexcim: unknown subcommand 'pruen'; did you mean 'prune'?\n"]
    assert main(["zzz"]) == 2
    known = "generate, verify, prune, compile, cycles, generate-text, demo, presets"
    assert read() == ["", f"flexcim: unknown subcommand 'zzz'; known are {known}\n"]


def test_the_version(read):
    assert main(["--version"]) == 0
    assert read() == [f"flexcim {importlib.metadata.version('flexcim')}\n", ""]


def test_the_presets_are_listed(read):
    assert main(["presets"]) == 0
    out, _ = read()
    for name in (*PRESETS, *ACCELERATOR_PRESETS):
        assert f"│ {name} " in out


def test_the_command_is_installed():
    (script,) = (entry for entry in importlib.metadata.distribution("flexcim").entry_points if entry.name == "flexcim")
    assert script.load() is main


def test_a_process_exits_with_the_code():
    script = "import sys; from flexcim.cli import main; sys.exit(main())"
    process = subprocess.run([sys.executable, "-c", script, "preset"], capture_output=True, text=True, check=False)
    assert process.returncode == 2
    assert process.stderr == "flexcim: unknown subcommand 'preset'; did you mean 'presets'?\n"
    assert process.stdout == ""
