"""The accelerator's generated files: lint clean, each macro once, and what stands beside the Verilog."""

from __future__ import annotations

import functools
import importlib.metadata
import json
import re
import subprocess

import pytest

from flexcim.accelerator.register_files import c_header, markdown, python_driver
from flexcim.accelerator.registers import REGISTERS
from flexcim.cli import main
from flexcim.config.accelerator import ACCELERATOR_PRESETS, AcceleratorConfig
from flexcim.config.macro import PRESETS, MacroConfig
from flexcim_hw.verilog.accelerator import accelerator_ports, generate_accelerator, write_accelerator
from flexcim_sim.build import simulators

SMALL = MacroConfig.from_mapping({"rows": 2, "columns": 2, "patterns": ["1:1", "2:4"], "result_port": 2})
EXTREMES = {
    "small": AcceleratorConfig(macro=SMALL, activation_memory=8, program_depth=8),
    "four macros": AcceleratorConfig(macro=SMALL, macros=4, activation_memory=8, program_depth=8),
    "largest": AcceleratorConfig(
        macro=SMALL, macros=16, weight_bus=1024, result_bus=1024, activation_memory=64, program_depth=1024
    ),
    "least": AcceleratorConfig(
        macro=SMALL,
        weight_bus=32,
        activation_bus=32,
        result_bus=32,
        activation_memory=0,
        program_depth=2,
        register_bus="wishbone",
    ),
}


@functools.cache
def generated(name):
    return generate_accelerator(EXTREMES[name])


def modules_of(text):
    return re.findall(r"^module (\S+)", text, flags=re.MULTILINE)


@pytest.mark.parametrize("name", EXTREMES)
@pytest.mark.simulator
@pytest.mark.slow
def test_lint_has_no_finding(name, tmp_path):
    (tmp_path / "accelerator.v").write_text(generated(name).text)
    command = ["verilator", "--lint-only", "-Wall", "--top-module", "flexcim_accelerator", "accelerator.v"]
    run = subprocess.run(
        command, cwd=tmp_path, env=simulators.tool_environment(), capture_output=True, text=True, check=False
    )
    assert (run.returncode, run.stderr) == (0, "")


def test_more_macros_are_more_instances_of_the_same_modules():
    one, four = generated("small").text, generated("four macros").text
    assert modules_of(one) == modules_of(four)
    assert len(set(modules_of(one))) == len(modules_of(one))
    assert [len(re.findall(r"^  flexcim_accelerator_macro ", text, flags=re.MULTILINE)) for text in (one, four)] == [
        1,
        4,
    ]
    assert len(four) < 1.1 * len(one)


@pytest.mark.parametrize("name", EXTREMES)
def test_the_ports_are_those_of_the_top_module(name):
    text = generated(name).text
    top = re.search(r"^module flexcim_accelerator ?\((.*?)\);(.*?)^endmodule", text, flags=re.MULTILINE | re.DOTALL)
    assert top is not None
    ports = accelerator_ports(EXTREMES[name])
    assert set(top[1].replace("\n", " ").replace(" ", "").split(",")) == {port.name for port in ports}
    for port in ports:
        width = rf"\[{port.width - 1}:0\] " if port.width > 1 else ""
        assert re.search(rf"^  {port.direction} {width}{port.name} ?;", top[2], flags=re.MULTILINE), port
    buses = [port.name for port in ports if port.name.startswith(("s_axil_", "wb_"))]
    prefix = "wb_" if EXTREMES[name].register_bus == "wishbone" else "s_axil_"
    assert all(bus.startswith(prefix) for bus in buses)


def test_the_interface_says_what_a_driver_must_know():
    interface = generated("four macros").interface
    assert AcceleratorConfig.from_mapping(interface["parameters"]) == EXTREMES["four macros"]
    assert [entry["name"] for entry in interface["registers"]] == [register.name for register in REGISTERS]
    assert interface["instructions"]["RUN"]["fields"]["address"] == [96, 20]
    assert interface["errors"]["11"] == "macro"
    assert interface["macro_errors"]["7"] == "run_rows"
    assert json.loads(json.dumps(interface)) == interface


def test_a_name_that_is_no_identifier_is_refused():
    with pytest.raises(ValueError, match="a module's name must be a Verilog identifier, not 'a-b'"):
        generate_accelerator(EXTREMES["least"], "a-b")


def test_all_files_are_written(tmp_path):
    config, verilog = EXTREMES["small"], generated("small")
    paths = write_accelerator(verilog, config, tmp_path)
    assert [path.name for path in paths] == [f"flexcim_accelerator.{kind}" for kind in ("v", "json", "h", "py", "md")]
    texts = [path.read_text() for path in paths]
    assert texts[0] == verilog.text
    assert texts[2:] == [make(config, verilog.top) for make in (c_header, python_driver, markdown)]


@pytest.mark.parametrize("suffix", ["v", "json", "h", "py", "md"])
def test_nothing_is_half_written(suffix, tmp_path):
    (tmp_path / f"flexcim_accelerator.{suffix}").mkdir()
    with pytest.raises(IsADirectoryError):
        write_accelerator(generated("small"), EXTREMES["small"], tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [f"flexcim_accelerator.{suffix}"]


@pytest.mark.parametrize(("init", "variant"), [(True, "with"), (False, "without")])
def test_version_and_variant_are_named(init, variant):
    verilog = generate_accelerator(EXTREMES["small"], init=init)
    generator = f"FlexCiM {importlib.metadata.version('flexcim')}"
    assert f"// generated by {generator}, {variant} initial values of registers.\n" in verilog.text
    assert (verilog.interface["generator"], verilog.interface["initial_values"]) == (generator, init)
    assert ("PROCASSINIT" in verilog.interface["lint_waivers"]) is ("PROCASSINIT" in verilog.text) is init


# --- flexcim generate ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("chosen", ["table", "option"])
def test_generate_takes_an_accelerator_from_a_table_or_the_option(chosen, tmp_path, capsys):
    config = tmp_path / "my.toml"
    macro = '[macro]\nrows = 2\ncolumns = 2\npatterns = ["1:1"]\nresult_port = 2\n'
    config.write_text(macro + ("[accelerator]\nmacros = 2\n" if chosen == "table" else ""))
    arguments = ["generate", "--config", str(config), "-o", str(tmp_path / "rtl"), "--name", "mine"]
    assert main([*arguments, *(["--accelerator"] if chosen == "option" else [])]) == 0
    interface = json.loads((tmp_path / "rtl" / "mine.json").read_text())
    assert interface["parameters"]["macros"] == (2 if chosen == "table" else 1)
    assert interface["parameters"]["macro"]["rows"] == 2
    out = capsys.readouterr().out.splitlines()
    assert f"{2 if chosen == 'table' else 1} macro" in out[0]
    assert [line.rsplit(".", 1)[1] for line in out[1:]] == ["json", "h", "py", "md"]


def test_generate_knows_the_presets(capsys):
    assert main(["generate", "--accelerator", "--preset", "accelerator-9"]) == 2
    known = ", ".join((*ACCELERATOR_PRESETS, *PRESETS))
    assert capsys.readouterr().err == f"flexcim: unknown preset 'accelerator-9'; known are {known}\n"
