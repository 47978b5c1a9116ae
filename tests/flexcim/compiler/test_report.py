"""The report of a model's cycles: each figure against one that is computed apart."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from flexcim.compiler.layer import compile_layer
from flexcim.compiler.mapping import CompileError
from flexcim.compiler.model import LayerShape
from flexcim.compiler.report import PAPER, PhaseCost, measure_model, phase_vectors
from flexcim.config.accelerator import AcceleratorConfig
from flexcim.config.macro import PRESETS, MacroConfig, preset
from flexcim.config.pattern import Pattern

CONFIG = AcceleratorConfig(macro=replace(preset("board"), activation_port=32), macros=2, weight_bus=64)
SHAPES = [LayerShape("a", 40, 90, Pattern(2, 4)), LayerShape("b", 40, 60, Pattern(1, 1))]


@pytest.fixture(scope="module")
def report():
    return measure_model(CONFIG, SHAPES, SHAPES, 6)


def compared(phase):
    return {one.name: one for one in phase.comparisons}


def test_there_is_a_prefill_and_a_decode(report):
    assert phase_vectors(6) == {"prefill": 6, "decode": 1}
    assert [(phase.name, phase.vectors) for phase in report.phases] == [("prefill", 6), ("decode", 1)]


def test_each_layer_costs_what_the_cycle_model_says(report):
    for phase in report.phases:
        for cost, shape in zip(phase.layers, SHAPES, strict=True):
            layer = compile_layer(CONFIG, shape.outputs, shape.inputs, shape.pattern, phase.vectors)
            assert not cost.resident
            assert (cost.name, cost.outputs, cost.inputs) == (shape.name, shape.outputs, shape.inputs)
            assert (cost.pattern, cost.groups) == (str(shape.pattern), layer.tiling.groups)
            assert (cost.cycles, cost.utilisation) == (layer.cycles.cycles, layer.utilisation)
            assert cost.dense_bytes == shape.outputs * shape.inputs
            assert cost.busy[cost.bound] == max(cost.busy.values()) <= cost.cycles
            assert cost.weight_bytes == 8 * layer.cycles.weight_words  # a word of the bus has 64 bits


def test_all_layers_are_weighed_by_their_cycles(report):
    for phase in report.phases:
        assert phase.cycles == sum(layer.cycles for layer in phase.layers)
        # Of 90 inputs, 2:4 keeps 2 of each of 22 blocks and the last 2; a multiplication takes A / b = 8 cycles.
        useful = 40 * (46 + 60) * phase.vectors * 8
        cells = 2 * 4 * 8 * 8
        assert phase.utilisation == pytest.approx(useful / (cells * phase.cycles))


def test_the_same_layers_run_on_each_preset_s_macro(report):
    for phase in report.phases:
        assert list(compared(phase)) == [*PRESETS, PAPER]
        for name, macro in PRESETS.items():
            other = replace(CONFIG, macro=macro)
            # A pattern that the menu lacks is dense there.
            shapes = [
                replace(shape, pattern=shape.pattern if shape.pattern in macro.patterns else Pattern(1, 1))
                for shape in SHAPES
            ]
            layers = [compile_layer(other, one.outputs, one.inputs, one.pattern, phase.vectors) for one in shapes]
            found = compared(phase)[name]
            assert found.cells == 2 * macro.sub_macros * macro.rows * macro.columns
            assert found.cycles is not None
            # Weights that stay on the chip only make it faster.
            assert found.cycles <= sum(layer.cycles.cycles for layer in layers)


def test_the_paper_s_storage_by_hand(report):
    """2:4 takes 3 cells for 4 weights, 1:1 one for one; a column has 32 cells, and a vector takes 8 cycles a tile."""
    for phase in report.phases:
        tiles = 3 * 5, 2 * 5  # 10 blocks of 4, or 32 of 1, in a column; 8 columns
        compute = [-(-count * phase.vectors * 8 // 2) for count in tiles]
        cells = 40 * 23 * 3, 40 * 60
        port = [-(-count // 8) for count in cells]
        words = [-(-count * 9 // 64) for count in cells]
        found = compared(phase)[PAPER]
        assert found.cells == 2 * 4 * 8 * 8
        assert found.cycles == sum(map(max, zip(compute, port, words, strict=True)))


def test_what_cannot_run_elsewhere_is_said_so():
    """Where 1:256 is not on the menu, sums of 262144 dense inputs leave 32 bits; its block needs 128 cells on paper."""
    macro = MacroConfig(rows=16, index_bits=8, patterns=(Pattern(1, 256),))
    long = [LayerShape("long", 1, 1 << 18, Pattern(1, 256))]
    report = measure_model(AcceleratorConfig(macro=macro), long, long, 1)
    cycles = {name: one.cycles for name, one in compared(report.phases[0]).items()}
    assert all(cycles[name] is None for name in cycles if name != PAPER)
    assert cycles[PAPER] is None
    assert report.phases[0].cycles > 0


def test_decode_may_run_under_another_plan():
    sparser = [replace(shape, pattern=Pattern(1, 4)) for shape in SHAPES]
    report = measure_model(CONFIG, SHAPES, SHAPES, 6, decode=(sparser, sparser))
    assert [[layer.pattern for layer in phase.layers] for phase in report.phases] == [["2:4", "1:1"], ["1:4", "1:4"]]


def test_each_compiled_model_is_told():
    told: list[str] = []
    measure_model(CONFIG, SHAPES[1:], SHAPES[1:], 6, told.append)
    assert told == [f"{phase}, {macro}" for phase in ("prefill", "decode") for macro in ("this accelerator", *PRESETS)]


def test_a_layer_that_cannot_be_compiled_is_named():
    wide = [LayerShape("wide", 1, 1 << 20, Pattern(1, 1))]
    with pytest.raises(CompileError, match=r"^layer 'wide': a layer of 1048576 inputs keeps 1048576 at 1:1, and their"):
        measure_model(CONFIG, wide, wide, 1)


def test_the_report_is_what_json_can_hold(report):
    values = json.loads(json.dumps(report.to_mapping(), allow_nan=False))
    assert AcceleratorConfig.from_mapping(values["config"]) == CONFIG
    for values_of, phase in zip(values["phases"], report.phases, strict=True):
        assert isinstance(phase, PhaseCost)
        assert (values_of["cycles"], values_of["utilisation"]) == (phase.cycles, phase.utilisation)
        assert [layer["busy"] for layer in values_of["layers"]] == [layer.busy for layer in phase.layers]
        assert {one["name"]: one["cycles"] for one in values_of["comparisons"]} == {
            name: one.cycles for name, one in compared(phase).items()
        }
