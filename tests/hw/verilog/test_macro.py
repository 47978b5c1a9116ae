"""The generated Verilog: what stands in it, what other tools say of it, and ``flexcim generate``."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from dataclasses import fields
from functools import cache

import pytest

from flexcim.cli import main
from flexcim.config.macro import PRESETS, SUM_BITS, MacroConfig
from flexcim.macro.commands import ErrorKind
from flexcim.macro.cycles import result_entries
from flexcim_hw.verilog.interface import macro_ports
from flexcim_hw.verilog.macro import GeneratedVerilog, generate, lint_waivers, write_verilog
from flexcim_sim.build import simulators
from tests.support.simulation import CONFIGS

pytestmark = pytest.mark.simulator

TOP = "flexcim_macro"
SMALL = {name: MacroConfig.from_mapping({"rows": 4, "columns": 4}, base=base) for name, base in PRESETS.items()}
WIDE, REQUANTIZED = "two bits, wide windows", "half parallel, requantized"
INSTANCES = {
    **{f"small {name}": config for name, config in SMALL.items()},
    **{name: CONFIGS[name] for name in (WIDE, REQUANTIZED)},
    "default": MacroConfig(),
}
for_each_instance = pytest.mark.parametrize("name", INSTANCES)
without_init = ["small flexcim", "small dense", REQUANTIZED]
for_each_file = pytest.mark.parametrize(
    ("name", "init"), [*((name, True) for name in INSTANCES), *((name, False) for name in without_init)]
)


@cache
def generated(name: str, init: bool = True) -> GeneratedVerilog:
    return generate(INSTANCES[name], init=init)


def header_of(text: str) -> str:
    """The comment at the top of the file."""
    return text[: text.index("\n\n/*")]


def modules_of(text: str) -> dict[str, str]:
    """Each module's text by its name."""
    found = re.findall(r"^module (\S+?) ?\((.*?)^endmodule$", text, flags=re.MULTILINE | re.DOTALL)
    assert len({name for name, _ in found}) == len(found), "a module stands twice in the file"
    return dict(found)


# --- Other tools -----------------------------------------------------------------------------------------------------


@for_each_file
def test_verilator_has_nothing_to_say(name, init, tmp_path):
    (tmp_path / f"{TOP}.v").write_text(generated(name, init).text)
    run = subprocess.run(
        ["verilator", "--lint-only", "-Wall", "--top-module", TOP, f"{TOP}.v"],
        cwd=tmp_path,
        env=simulators.tool_environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert (run.returncode, run.stderr) == (0, "")
    assert re.findall("%(?:Warning|Error).*", run.stdout) == []


YOSYS = """
import sys
from pyosys import libyosys
design = libyosys.Design()
for command in sys.argv[1:]:
    libyosys.run_pass(command, design)
"""


@for_each_file
def test_yosys_reads_it_and_finds_no_problem(name, init, tmp_path):
    # Amaranth's own Yosys only writes Verilog, so this one is another.
    (tmp_path / f"{TOP}.v").write_text(generated(name, init).text)
    commands = [f"read_verilog {TOP}.v", f"hierarchy -check -top {TOP}", "proc", "check -assert"]
    run = subprocess.run(
        [sys.executable, "-c", YOSYS, *commands], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stdout[-2000:]
    assert re.findall(r"(?i)^.*warning.*$", run.stdout + run.stderr, flags=re.MULTILINE) == []
    assert "Found and reported 0 problems." in run.stdout


@for_each_file
def test_icarus_compiles_it(name, init, tmp_path):
    (tmp_path / f"{TOP}.v").write_text(generated(name, init).text)
    command = ["iverilog", "-g2005", "-Wall", "-Wno-timescale", "-s", TOP, "-o", os.devnull, f"{TOP}.v"]
    run = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    # It warns of processes that wait on a whole memory or array; Verilator and Yosys see to the rest.
    said = [line for line in run.stderr.splitlines() if "sensitive to all" not in line]
    assert (run.returncode, said) == (0, [])


# --- The text --------------------------------------------------------------------------------------------------------


def test_the_default_instance_is_small():
    assert len(generated("default").text) <= 300_000


@pytest.mark.parametrize("name", ["small flexcim", REQUANTIZED])
def test_the_text_is_the_same_each_time(name):
    again = generate(INSTANCES[name])
    assert again.text == generated(name).text
    assert again.interface == generated(name).interface


def test_the_text_does_not_depend_on_the_order_of_sets():
    script = "from flexcim_hw.verilog.macro import generate; from flexcim.config.macro import *;"
    script += "print(generate(MacroConfig.from_mapping({'rows': 4, 'columns': 4}, base=PRESETS['board'])).text)"
    texts = {
        subprocess.run(
            [sys.executable, "-c", script],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert texts == {generated("small board").text + "\n"}


@for_each_instance
def test_each_distinct_module_is_there_once(name):
    modules = modules_of(generated(name).text)
    parts = (
        "accumulator activation_buffer distribution distribution_row result_buffer result_lane sub_macro window_store"
    )
    arrayed = ["column", "merging_column", "accumulator_column"]
    expected = {f"{TOP}_{part}" for part in [*parts.split(), *arrayed, *(f"{part}_array" for part in arrayed)]}
    expected |= {TOP, rf"\{TOP}.sequencer", rf"\{TOP}.weight_loader", rf"\{TOP}_accumulator_column.memory"}
    if INSTANCES[name].requantizer:
        expected |= {f"{TOP}_requantizer", f"{TOP}_requantizer_lane"}
    assert set(modules) == expected
    # No two modules are equal but for their names.
    assert len(set(modules.values())) == len(modules)
    assert next(iter(modules)) == TOP


@for_each_instance
def test_there_are_as_many_instances_as_parts(name):
    config, modules = INSTANCES[name], modules_of(generated(name).text)

    def count(part, inside):
        return len(re.findall(rf"^  {TOP}_{part} \w+ \($", modules[inside], flags=re.MULTILINE))

    assert count("sub_macro", TOP) == config.sub_macros
    for part in ("column", "merging_column", "accumulator_column"):
        assert count(part, f"{TOP}_{part}_array") == config.columns
    assert count("column_array", f"{TOP}_sub_macro") == 1
    assert count("merging_column_array", TOP) == 1
    assert count("accumulator_column_array", f"{TOP}_accumulator") == 1
    assert count("result_lane", f"{TOP}_result_buffer") == config.result_port
    assert count("distribution_row", f"{TOP}_distribution") == config.rows
    assert count("window_store", f"{TOP}_activation_buffer") == config.rows
    if config.requantizer:
        assert count("requantizer_lane", f"{TOP}_requantizer") == config.result_port


@for_each_instance
def test_the_memories_are_those_of_the_contract(name):
    """The table of docs/architecture.md, section 3.1: names, words and bits."""
    config = INSTANCES[name]
    beats = max(config.result_beats(groups) for _, groups in config.modes)
    row_bits = (config.rows - 1).bit_length()
    depth = config.accumulator_depth // config.sub_macros
    entries = result_entries(config)
    expected = {
        (f"{TOP}_column", "storage"): (config.banks << row_bits, config.cell_bits),
        (f"{TOP}_result_lane", "entries"): (entries, SUM_BITS * beats),
        **{
            (rf"\{TOP}_accumulator_column.memory", f"bank_{bank}"): (depth, SUM_BITS)
            for bank in range(config.sub_macros)
        },
    }
    if config.requantizer:
        for bank in range(config.banks):
            expected[f"{TOP}_requantizer", f"constants_{bank}"] = (beats, 22 * config.result_port)
    found = {
        (module, memory): (int(last_word) + 1, int(last_bit) + 1)
        for module, text in modules_of(generated(name).text).items()
        for last_bit, memory, last_word in re.findall(r"^  reg \[(\d+):0\] (\S+) \[(\d+):0\];", text, re.MULTILINE)
    }
    assert found.pop((f"{TOP}_result_buffer", "vectors"))[0] == entries
    assert found == expected


@pytest.mark.parametrize("name", ["small flexcim", "default"])
def test_the_column_is_marked_not_to_be_inlined(name):
    modules = modules_of(generated(name).text)
    marked = [module for module, text in modules.items() if "verilator no_inline_module" in text]
    assert marked == [f"{TOP}_column"]


@pytest.mark.parametrize("name", without_init)
def test_initial_values_can_be_left_out(name):
    without = generated(name, init=False).text
    code = re.sub(r"//.*", "", without)
    assert re.findall(r"\binitial\b", code) == []
    assert re.findall(r"^ *reg [^;=]*=.*$", code, flags=re.MULTILINE) == []
    assert "$wake" not in code
    # Nothing else is gone: registers are declared, and assigned in processes, as before.
    registers = [
        re.findall(r"^  reg (?:signed )?(?:\[\d+:\d+\] )?(\S+)", text, flags=re.MULTILINE)
        for text in (generated(name).text, without)
    ]
    assert [part.rstrip(";") for part in registers[0] if part != r"\$wake"] == [
        part.rstrip(";") for part in registers[1]
    ]


@for_each_instance
def test_registers_have_initial_values_and_memories_have_not(name):
    text = generated(name).text
    assert re.findall(r"^  reg .* = ", text, flags=re.MULTILINE)
    # What is initial is the register that wakes the processes, and it alone.
    initial = re.findall(r"^ *initial (.*)$", text, flags=re.MULTILINE)
    assert initial
    assert set(initial) == {r"\$wake  = 0;"}


@pytest.mark.parametrize("init", [True, False])
def test_every_waiver_has_its_reason_beside_it(init):
    text = generated("small flexcim", init).text
    lines = re.findall(r"^/\* verilator lint_off (\w+) \*/ // (\S.*)$", text, flags=re.MULTILINE)
    waivers = lint_waivers(init=init)
    assert dict(lines) == generated("small flexcim", init).interface["lint_waivers"] == waivers
    assert len(lines) == len(waivers) == text.count("lint_off")
    assert all(len(reason) > 20 for reason in waivers.values())


@pytest.mark.parametrize("init", [True, False])
def test_no_waiver_is_for_nothing(init, tmp_path):
    """Without the waivers, Verilator says just what they are for."""
    text = generated(REQUANTIZED, init).text
    (tmp_path / "bare.v").write_text(re.sub(r"^/\* verilator lint_off .*$", "", text, flags=re.MULTILINE))
    run = subprocess.run(
        ["verilator", "--lint-only", "-Wall", "-Wno-fatal", "--top-module", TOP, "bare.v"],
        cwd=tmp_path,
        env=simulators.tool_environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert set(re.findall(r"%Warning-(\w+)", run.stderr)) == set(lint_waivers(init=init))


# --- The interface ---------------------------------------------------------------------------------------------------


def ports_of(module: str) -> list[tuple[str, str, int]]:
    """Name, direction and width of a module's ports, by its declarations."""
    declared = re.findall(r"^  (input|output) (?:\[(\d+):0\] )?(\w+);$", module, flags=re.MULTILINE)
    return sorted((name, direction, int(high or 0) + 1) for direction, high, name in declared)


@for_each_instance
def test_the_interface_lists_the_ports_of_the_verilog(name):
    verilog = generated(name)
    listed = verilog.interface["ports"]
    assert sorted((port["name"], port["direction"], port["width"]) for port in listed) == ports_of(
        modules_of(verilog.text)[TOP]
    )
    assert all(port["meaning"] for port in listed)
    assert [vars(port) for port in macro_ports(INSTANCES[name])] == listed
    names = {port["name"] for port in listed}
    assert ("constants__payload" in names) == INSTANCES[name].requantizer


@for_each_instance
def test_the_header_names_what_the_file_is_made_of(name):
    config, verilog = INSTANCES[name], generated(name)
    header = header_of(verilog.text)
    assert all(line.startswith("//") for line in header.splitlines())
    for field in fields(config):
        value = getattr(config, field.name)
        shown = " ".join(map(str, value)) if field.name == "patterns" else str(value)
        assert re.search(rf"^//   {field.name} +{re.escape(shown)}$", header, flags=re.MULTILINE), field.name
    for port in macro_ports(config):
        line = rf"^//   {port.direction} +{port.width}  {port.name} +{re.escape(port.meaning)}$"
        assert re.search(line, header, flags=re.MULTILINE), port.name
    words = " ".join(header.replace("//", "").split())
    for index, pattern in enumerate(config.patterns):
        assert f"{index} = {pattern}" in words
    for kind in ErrorKind:
        assert f"{int(kind)} = {kind.name.lower()}" in words


@for_each_instance
def test_the_interface_says_what_a_driver_must_know(name):
    config, interface = INSTANCES[name], generated(name).interface
    assert interface["top"] == TOP
    assert MacroConfig.from_mapping(interface["parameters"]) == config
    assert interface["patterns"] == {str(index): str(pattern) for index, pattern in enumerate(config.patterns)}
    assert interface["errors"]["13"] == "constants_last"
    assert [(mode["pattern"], mode["groups"]) for mode in interface["modes"]] == [
        (str(pattern), groups) for pattern, groups in config.modes
    ]
    assert interface["result_latency"] == (7 if config.requantizer else 5)
    assert json.loads(json.dumps(interface)) == interface


def test_the_figures_of_a_mode():
    modes = generated("default").interface["modes"]
    (mode,) = (mode for mode in modes if mode["pattern"] == "1:2" and mode["groups"] == 2)
    assert mode == {
        "pattern": "1:2",
        "pattern_field": 10,
        "groups": 2,
        "groups_field": 1,
        "window": 4,
        "rows_per_beat": 16,
        "beats_per_window": 1,
        "phases": 1,
        "tile_inputs": 128,
        "tile_outputs": 64,
        "accumulated_vectors": 32,
        "issue_cycles": 8,
        "activation_beats": 2,
        "result_beats": 4,
    }
    assert generated("default").interface["weight_beats_per_row"] == 4
    assert generated("default").interface["weight_beats"] == 128


# --- Names and files -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["", "1st", "a-b", "a b", "größe", "a.b", "a\n", "\\a ", "a$"])
def test_a_name_that_is_no_identifier_is_refused(name):
    message = f"a module's name must be a Verilog identifier, not {name!r}"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        generate(SMALL["dense"], name)


def test_all_modules_are_named_after_the_top():
    verilog = generate(SMALL["dense"], "_Other9")
    assert verilog.top == "_Other9"
    modules = modules_of(verilog.text)
    assert all(re.match(r"\\?_Other9\b|\\?_Other9_", module) for module in modules)
    assert TOP not in verilog.text
    assert set(modules).isdisjoint(modules_of(generated("small dense").text))


def test_the_files_are_written_and_an_equal_one_is_left_alone(tmp_path):
    verilog = generated("small dense")
    source, description = write_verilog(verilog, tmp_path / "new" / "folder")
    assert (source.name, description.name) == (f"{TOP}.v", f"{TOP}.json")
    assert source.read_text() == verilog.text
    assert json.loads(description.read_text()) == verilog.interface
    os.utime(source, (1, 1))
    write_verilog(verilog, tmp_path / "new" / "folder")
    assert source.stat().st_mtime == 1
    assert sorted(path.name for path in source.parent.iterdir()) == [description.name, source.name]


# --- flexcim generate ------------------------------------------------------------------------------------------------

SMALL_TOML = 'preset = "dense"\n[macro]\nrows = 4\ncolumns = 4\n'


@pytest.fixture
def read(capsys, monkeypatch):
    """Both outputs since the last call, without colours."""
    monkeypatch.setenv("COLUMNS", "100")
    return lambda: [re.sub(r"\x1b\[[\d;]*m", "", text) for text in capsys.readouterr()]


@pytest.fixture
def config(tmp_path):
    path = tmp_path / "my.toml"
    path.write_text(SMALL_TOML)
    return str(path)


def test_generate_writes_both_files_and_says_so(config, tmp_path, read):
    output = tmp_path / "rtl"
    assert main(["generate", "--config", config, "--output", str(output)]) == 0
    out, err = read()
    assert err == ""
    lines = out.splitlines()
    assert lines[0].startswith(f"{output / TOP}.v  ")
    assert "4 x 4 x 4 cells" in lines[0]
    assert lines[1] == f"{output / TOP}.json"
    assert (output / f"{TOP}.v").read_text() == generated("small dense").text
    assert json.loads((output / f"{TOP}.json").read_text())["parameters"]["columns"] == 4


def test_generate_takes_a_name_and_leaves_out_initial_values(config, tmp_path):
    assert main(["generate", "--config", config, "-o", str(tmp_path), "--name", "mine", "--no-init"]) == 0
    expected = generate(SMALL["dense"], "mine", init=False)
    assert (tmp_path / "mine.v").read_text() == expected.text


def test_generate_takes_a_preset(tmp_path, read):
    assert main(["generate", "--preset", "board", "-o", str(tmp_path)]) == 0
    interface = json.loads((tmp_path / f"{TOP}.json").read_text())
    assert MacroConfig.from_mapping(interface["parameters"]) == PRESETS["board"]


def test_generate_explains_itself(read):
    assert main(["generate", "--help"]) == 0
    out, _ = read()
    for word in ("--config", "--preset", "--output", "--name", "--no-init", "Examples", *PRESETS):
        assert word in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--config", "{tmp}/missing.toml"], "{tmp}/missing.toml: cannot be read (No such file or directory)"),
        (["--config", "{tmp}/bad.toml"], "{tmp}/bad.toml: is no TOML (.*)"),
        (["--config", "{tmp}/rule.toml"], "{tmp}/rule.toml: sub_macros must be a power of two from 1 to 64, not 3"),
        (["--config", "{tmp}/key.toml"], "{tmp}/key.toml: unknown parameter 'colums'; did you mean 'columns'\\?"),
        (["--preset", "bord"], f"unknown preset 'bord'; known are {', '.join(PRESETS)}"),
        (["--name", "a-b"], "--name must be a Verilog identifier, not 'a-b'"),
        (
            ["--config", "{tmp}/my.toml", "--preset", "nope"],
            "--config and --preset exclude each other: a configuration file can name its preset itself",
        ),
        (
            ["--output", ""],
            "invalid value for '--output' / '-o': a folder must have a name, not ''; see 'flexcim generate --help'",
        ),
        (["--name", ""], "--name must be a Verilog identifier, not ''"),
        (
            ["--config", "{tmp}/my.toml", "--output", "{tmp}/file"],
            "{tmp}/file: cannot be written (File exists)",
        ),
        (
            ["--config", "{tmp}/my.toml", "--output", "{tmp}/file/below"],
            "{tmp}/file/below: cannot be written (Not a directory)",
        ),
        (
            ["--config", "{tmp}/my.toml", "--output", "{tmp}/taken"],
            f"{{tmp}}/taken/{TOP}.json: cannot be written (Is a directory)",
        ),
    ],
)
def test_bad_input_is_answered_with_one_sentence(config, tmp_path, read, arguments, message):
    (tmp_path / "bad.toml").write_text("[macro\n")
    (tmp_path / "rule.toml").write_text("[macro]\nsub_macros = 3\n")
    (tmp_path / "key.toml").write_text("[macro]\ncolums = 8\n")
    (tmp_path / "file").write_text("")
    (tmp_path / "taken" / f"{TOP}.json").mkdir(parents=True)
    assert main(["generate", *(argument.replace("{tmp}", str(tmp_path)) for argument in arguments)]) == 2
    out, err = read()
    assert out == ""
    wanted = message.replace("{tmp}", re.escape(str(tmp_path))).replace("(", r"\(").replace(")", r"\)")
    assert re.fullmatch(f"flexcim: {wanted}\n", err), err
    assert [path.name for path in (tmp_path / "taken").iterdir()] == [f"{TOP}.json"], "nothing may be half written"


def test_a_folder_that_may_not_be_written_is_named(config, tmp_path, read, monkeypatch):
    def refuse(path, text):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr("flexcim_hw.verilog.macro.write_text", refuse)
    assert main(["generate", "--config", config, "-o", str(tmp_path / "rtl")]) == 2
    _, err = read()
    assert err == f"flexcim: {tmp_path / 'rtl' / TOP}.v: cannot be written (Permission denied)\n"
