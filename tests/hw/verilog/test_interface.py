"""What a user is told of a generated macro: the JSON's figures and the header's rules, held against the code."""

from __future__ import annotations

import importlib.metadata
import json
import re
import subprocess
import sys

import numpy as np
import pytest

from flexcim.config.macro import SUM_BITS, MacroConfig
from flexcim.config.pattern import Pattern
from flexcim.macro.beats import (
    activation_beats,
    activation_payloads,
    constant_payloads,
    result_elements,
    weight_payloads,
)
from flexcim.macro.commands import LOAD_FIELDS, RUN_FIELDS, Load, Run
from flexcim_hw.verilog.interface import describe, header_lines, macro_ports
from flexcim_hw.verilog.macro import comment_block, generate

SMALL = MacroConfig.from_mapping({"rows": 4, "columns": 4})
DENSE = MacroConfig(
    rows=4, columns=4, lanes=1, index_bits=0, patterns=(Pattern(1, 1),), weight_port=8, accumulator_depth=8
)
NARROW = MacroConfig(
    rows=4,
    columns=4,
    bits_per_cycle=2,
    activation_bits=6,
    weight_bits=5,
    banks=3,
    activation_port=6,
    result_port=3,
    requantizer=True,
)
CONFIGS = {"small": SMALL, "dense": DENSE, "narrow": NARROW}
for_each_config = pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)


def read_field(payload: int, field: dict[str, int]) -> int:
    """A field of a payload by its offset and width."""
    return payload >> field["offset"] & (1 << field["width"]) - 1


def read_elements(payload: int, array: dict) -> list[dict[str, int]]:
    """The elements of an array in a payload, by what the JSON says and nothing else."""
    elements = []
    for index in range(array["count"]):
        bits = payload >> array["offset"] + index * array["stride"]
        element = {}
        for name, field in array["fields"].items():
            value = read_field(bits, field)
            element[name] = value - (field["signed"] and value >> field["width"] - 1) * (1 << field["width"])
        elements.append(element)
    return elements


# --- Payloads --------------------------------------------------------------------------------------------------------


@for_each_config
def test_payload_fields_fill_their_ports(config):
    interface = describe(config, "top", init=True)
    widths = {port.name: port.width for port in macro_ports(config)}
    for stream, fields in interface["payloads"].items():
        end = 0
        for field in fields.values():
            assert field["offset"] == end
            end += field["width"]
            assert field["width"] == field.get("count", 1) * field.get("stride", field["width"])
        assert end == widths[f"{stream}__payload"]
    assert json.loads(json.dumps(interface)) == interface


def test_commands_are_found_where_the_json_says():
    payloads = describe(NARROW, "top", init=True)["payloads"]
    assert (list(payloads["load"]), list(payloads["run"])) == (list(LOAD_FIELDS), list(RUN_FIELDS))
    assert payloads["load"]["bank"] == {"offset": 0, "width": 4}
    load = Load(bank=2, rows=3, constants=True).payload()
    assert {name: read_field(load, field) for name, field in payloads["load"].items()} == {
        "bank": 2,
        "rows": 3,
        "constants": 1,
    }
    run = Run(bank=1, pattern=Pattern(2, 4), groups=2, rows=4, vectors=777, first_k=False, requantize=True)
    mode = next(
        mode for mode in describe(NARROW, "", init=True)["modes"] if (mode["pattern"], mode["groups"]) == ("2:4", 2)
    )
    assert {name: read_field(run.payload(NARROW), field) for name, field in payloads["run"].items()} == {
        "bank": 1,
        "pattern": mode["pattern_field"],
        "groups": mode["groups_field"],
        "rows": 4,
        "vectors": 777,
        "first_k": 0,
        "last_k": 1,
        "requantize": 1,
        "release": 1,
    }


@for_each_config
def test_weights_are_found_where_the_json_says(config):
    rng = np.random.default_rng(1)
    limit = 1 << config.weight_bits - 1
    weights = rng.integers(-limit, limit, (3, config.weight_port), np.int8)
    offsets = rng.integers(0, 1 << config.index_bits, weights.shape, np.uint8)
    fields = describe(config, "top", init=True)["payloads"]["weights"]
    assert ("offset" in fields["cells"]["fields"]) == bool(config.index_bits)
    payloads = weight_payloads(config, weights, offsets)
    cells = [read_elements(payload, fields["cells"]) for payload in payloads]
    assert [[cell["weight"] for cell in beat] for beat in cells] == weights.tolist()
    assert [[cell.get("offset", 0) for cell in beat] for beat in cells] == offsets.tolist()
    assert [read_field(payload, fields["last"]) for payload in payloads] == [0, 0, 1]


@for_each_config
def test_activations_and_results_are_found_where_the_json_says(config):
    rng = np.random.default_rng(2)
    payloads = describe(config, "top", init=True)["payloads"]
    limit = 1 << config.activation_bits - 1
    beats = rng.integers(-limit, limit, (2, 2, config.activation_port), np.int8)
    sent = activation_payloads(config, beats)
    fields = payloads["activations"]
    read = [[element["element"] for element in read_elements(payload, fields["elements"])] for payload in sent]
    assert read == beats.reshape(4, -1).tolist()
    assert [read_field(payload, fields["last"]) for payload in sent] == [0, 1, 0, 1]

    fields = payloads["results"]
    payload = int.from_bytes(rng.bytes(config.result_port * SUM_BITS // 8), "little") | 1 << fields["last"]["offset"]
    elements, last = result_elements(config, [payload])
    assert [element["element"] for element in read_elements(payload, fields["elements"])] == elements[0].tolist()
    assert last.tolist() == [True]


def test_constants_are_found_where_the_json_says():
    mult, shift = np.array([[1, 65535, 7]], np.uint16), np.array([[0, 47, 5]], np.uint8)
    (payload,) = constant_payloads(NARROW, mult, shift)
    fields = describe(NARROW, "top", init=True)["payloads"]["constants"]
    read = read_elements(payload, fields["outputs"])
    assert [(constant["mult"], constant["shift"]) for constant in read] == [(1, 0), (65535, 47), (7, 5)]
    assert read_field(payload, fields["last"]) == 1
    assert "constants" not in describe(SMALL, "top", init=True)["payloads"]


# --- Modes -----------------------------------------------------------------------------------------------------------


@for_each_config
def test_a_vectors_beats_follow_from_the_table(config):
    modes = describe(config, "top", init=True)["modes"]
    assert [(mode["pattern"], mode["groups"]) for mode in modes] == [
        (str(pattern), groups) for pattern, groups in config.modes
    ]
    for mode in modes:
        for rows in range(1, config.rows + 1):
            vector = np.ones((1, rows * mode["window"]), np.int8)
            beats = activation_beats(config, Pattern.parse(mode["pattern"]), mode["groups"], rows, vector)
            per_beat = mode["rows_per_beat"]
            assert beats.shape[1] == (-(-rows // per_beat) if per_beat else rows * mode["beats_per_window"])
            if per_beat:
                assert beats[0, 0].sum() == min(per_beat, rows) * mode["window"]
        assert mode["tile_inputs"] == config.rows * mode["window"]
        assert mode["groups"] == 1 << mode["groups_field"]
        assert config.patterns[mode["pattern_field"]] == Pattern.parse(mode["pattern"])
        assert mode["accumulated_vectors"] * mode["groups"] == config.accumulator_depth


def test_a_window_wider_than_the_port_has_beats_of_its_own():
    modes = describe(NARROW, "top", init=True)["modes"]
    (mode,) = (mode for mode in modes if (mode["pattern"], mode["groups"]) == ("4:11", 1))
    assert (mode["window"], mode["rows_per_beat"], mode["beats_per_window"]) == (11, None, 2)
    assert re.search(r"^// +7  4:11 +0  1  11 +-  +2  ", header(describe(NARROW, "top", init=True)), flags=re.MULTILINE)


# --- The header ------------------------------------------------------------------------------------------------------


def header(interface: dict) -> str:
    """The comment at the top of the file."""
    return comment_block(header_lines(interface), init=interface["initial_values"])


def words(text: str) -> str:
    """The header's words, without the comment signs and line breaks."""
    return " ".join(re.sub(r"^//", "", text, flags=re.MULTILINE).split())


@for_each_config
@pytest.mark.parametrize("init", [True, False])
def test_the_header_says_all_rules_of_the_json(config, init):
    interface = describe(config, "top", init=init)
    text = header(interface)
    assert max(map(len, text.splitlines())) < 200
    assert text.isascii()
    for subject, rule in interface["rules"].items():
        assert f"{subject.capitalize()}. {' '.join(rule.split())}" in words(text)
    assert ("constants" in interface["rules"]) == config.requantizer
    assert "docs/architecture.md" in text


@pytest.mark.parametrize(("init", "variant"), [(True, "with"), (False, "without")])
def test_version_and_variant_are_named(init, variant):
    version = importlib.metadata.version("flexcim")
    verilog = generate(DENSE, init=init)
    assert f"generated by FlexCiM {version}, {variant} initial values of registers." in words(verilog.text[:1000])
    assert verilog.interface["generator"] == f"FlexCiM {version}"
    assert verilog.interface["initial_values"] is init


# --- The rules, on the hardware --------------------------------------------------------------------------------------

CONES = """
import sys
from pyosys import libyosys
design = libyosys.Design()
run = lambda command: libyosys.run_pass(command, design)
run("read_verilog top.v")
run("hierarchy -top top")
run("proc")
run("flatten")
for port in sys.argv[1:]:
    print("cone of", port)
    run(f"select -list w:{port} %ci*:-$dff i:* %i")
print("end")
"""


@pytest.mark.parametrize("config", [SMALL, NARROW], ids=["small", "narrow"])
def test_outputs_depend_combinationally_on_what_the_header_says_alone(config, tmp_path):
    """The inputs in the combinational cone of each output, found by Yosys in the Verilog."""
    (tmp_path / "top.v").write_text(generate(config, "top").text)
    outputs = [port.name for port in macro_ports(config) if port.direction == "output"]
    # Yosys writes through C's buffer and not through Python's; without either (-u), their lines keep their order.
    run = subprocess.run(
        [sys.executable, "-u", "-c", CONES, *outputs], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    cones: dict[str, set[str]] = {}
    port = ""
    for line in run.stdout.splitlines():
        if line.startswith("cone of "):
            port = line.removeprefix("cone of ")
            cones[port] = set()
        elif match := re.fullmatch(r"top/(\w+)", line):
            cones[port].add(match[1])
    beats = ["weights", "constants"] if config.requantizer else ["weights"]
    expected: dict[str, set[str]] = {name: set() for name in outputs}
    expected["load__ready"] = {f"{stream}__{part}" for stream in beats for part in ("valid", "payload")}
    expected["run__ready"] = {"activations__valid", "activations__payload"}
    assert cones == expected


BENCH = """
module bench;
  reg clk = 0, rst = 1;
{declarations}
  top dut ({connections});
  integer i;
  initial begin
    for (i = 0; i < 3; i = i + 1) begin
      #1 clk = 1; #1 clk = 0; #1;
      $display("{formats}", {outputs});
    end
  end
endmodule
"""


@pytest.mark.parametrize("init", [True, False])
@pytest.mark.parametrize("config", [SMALL, NARROW], ids=["small", "narrow"])
@pytest.mark.simulator
def test_outputs_in_reset_are_what_the_header_says(config, init, tmp_path):
    """From the first edge on, even where everything is offered in reset."""
    ports = [port for port in macro_ports(config) if port.name not in ("clk", "rst")]
    shown = [port.name for port in ports if port.direction == "output" and not port.name.endswith("payload")]
    lines = [
        f"  reg [{port.width - 1}:0] {port.name} = {{{port.width}{{1'b1}}}};"
        if port.direction == "input"
        else f"  wire [{port.width - 1}:0] {port.name};"
        for port in ports
    ]
    bench = BENCH.format(
        declarations="\n".join(lines),
        connections=", ".join(f".{name}({name})" for name in ("clk", "rst", *(port.name for port in ports))),
        formats=" ".join(f"{name}=%0d" for name in shown),
        outputs=", ".join(shown),
    )
    (tmp_path / "bench.v").write_text(bench)
    (tmp_path / "top.v").write_text(generate(config, "top", init=init).text)
    subprocess.run(["iverilog", "-g2005", "-o", "bench", "bench.v", "top.v"], cwd=tmp_path, check=True)
    run = subprocess.run(["vvp", "bench"], cwd=tmp_path, capture_output=True, text=True, check=True)
    ready = {f"{name}__ready": int(name in ("load", "run")) for name in ("load", "run", "weights", "activations")}
    if config.requantizer:
        ready["constants__ready"] = 0
    wanted = {"error": 0, "results__valid": 0, **ready}
    seen = [dict(pair.split("=") for pair in line.split()) for line in run.stdout.splitlines()]
    assert seen == [{name: str(value) for name, value in wanted.items()}] * 3
