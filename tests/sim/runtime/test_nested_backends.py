"""Nested models on the accelerator: each plan is the integer product on each backend, and one can follow the other."""

from __future__ import annotations

import json

import numpy as np
import pytest
from numpy.typing import NDArray

from flexcim.cli import main
from flexcim.compiler.layer import compile_layer
from flexcim.compiler.mapping import CompileError
from flexcim.compiler.model import compile_model, layer_cells, layer_shapes
from flexcim.config.accelerator import AcceleratorConfig
from flexcim.config.macro import MacroConfig
from flexcim.config.pattern import Pattern
from flexcim.packed.cells import pack_layer
from flexcim.packed.folder import write_packed
from flexcim.packed.layer import PackedLayer
from flexcim.packed.model import PackedModel
from flexcim.packed.plans import NestedPlan
from flexcim.packed.tiling import LayerTiling
from flexcim_flow.layer.masks import nm_mask
from flexcim_flow.model.blocks import find_blocks
from flexcim_flow.nest.weights import Nested, quantize_nested
from flexcim_sim.build.library import build_accelerator_library
from flexcim_sim.golden.accelerator import GoldenAccelerator, WordStream
from flexcim_sim.runtime.backends import GoldenBackend, PhasedBackend, TorchBackend, VerilatorBackend
from flexcim_sim.runtime.driver import SimulatedAccelerator
from tests.flexcim.cli.test_compile import _outputs
from tests.sim.runtime.test_driver import SMALL
from tests.support.accelerators import ACCELERATORS
from tests.support.packed_models import nested_model
from tests.support.tiny_models import save_tiny, tiny_llama, tiny_mamba2

pytestmark = pytest.mark.torch

MODELS = {"llama": tiny_llama, "mamba2": tiny_mamba2}
PATTERNS = ("2:4 2:4", "2:4 1:1", "2:4")


@pytest.mark.parametrize("plan", NestedPlan)
def test_all_backends_give_each_plans_integer_product(plan):
    """Also cycle by cycle: the Verilator backend holds the RTL against the cycle model."""
    model, matrices = nested_model(SMALL.macro, PATTERNS, (21, 37))
    under = model.under(plan)
    rng = np.random.default_rng(151)
    with SimulatedAccelerator(SMALL, build_accelerator_library(SMALL)) as rtl:
        backends = [TorchBackend(under), GoldenBackend(under, SMALL), VerilatorBackend(under, rtl)]
        for vectors in (1, 19):
            activations = rng.integers(-128, 128, (vectors, 37)).astype(np.int8)
            for name, matrix in matrices[plan].items():
                product = activations.astype(np.int64) @ matrix.T.astype(np.int64)
                for backend in backends:
                    np.testing.assert_array_equal(backend.multiply(name, activations), product)


@pytest.mark.parametrize("config", ACCELERATORS.values(), ids=ACCELERATORS)
def test_nested_layers_with_remainders_are_the_integer_product(config):
    """On every accelerator, with a base that ends within a tile and one that ends with it."""
    rng = np.random.default_rng(152)
    golden, macro = GoldenAccelerator(config), config.macro
    pairs = [(one, other) for one in macro.patterns for other in macro.patterns if not one.is_dense][:3]
    for base, rest in pairs:
        for inputs in (macro.tile_inputs(base, 1), macro.tile_inputs(base, 1) // 2 + 1):
            outputs = 2 * macro.columns + 1
            model, matrices = nested_model(macro, [f"{base} {rest}"], (outputs, inputs))
            for plan in NestedPlan:
                under = model.under(plan)
                (shape,), (packed,) = layer_shapes(under, config), under.layers
                layer = compile_layer(config, outputs, inputs, shape.pattern, 3, rest=shape.rest)
                low = 1 << (macro.activation_bits - 1)
                activations = rng.integers(-low, low, (3, inputs)).astype(np.int8)
                streams = (
                    WordStream(layer.weight_image(*layer_cells(packed, layer))),
                    WordStream(layer.activation_image(activations)),
                )
                results = [golden.execute(one.words(macro), *streams).results for one in layer.programs]
                product = activations.astype(np.int64) @ matrices[plan]["a"].T.astype(np.int64)
                np.testing.assert_array_equal(layer.outputs(np.concatenate(results)), product)
    assert not golden.error


def test_twice_two_of_eight_costs_what_four_of_eight_costs():
    """In tiles, cycles and bytes; and the sparser plan half the bytes."""
    config = ACCELERATORS["three macros, narrow buses"]
    pattern = Pattern(1, 4)
    assert {pattern, Pattern(2, 4)} <= set(config.macro.patterns) or pytest.skip("another menu")
    nested = compile_layer(config, 64, 64, pattern, 1, rest=pattern, groups=1)
    alone = compile_layer(config, 64, 64, Pattern(2, 4), 1, groups=1)
    sparser = compile_layer(config, 64, 64, pattern, 1, groups=1)
    assert nested.cycles.weight_words == alone.cycles.weight_words == 2 * sparser.cycles.weight_words
    assert sparser.cycles.cycles < nested.cycles.cycles <= 1.1 * alone.cycles.cycles


def test_a_tiles_image_begins_with_that_of_the_sparser_plan():
    """So that a host need not keep the sparser plan's images besides: it sends as many words of each."""
    model, _ = nested_model(SMALL.macro, ["2:4 2:4"], (9, 29))
    images: dict[NestedPlan, dict[tuple[int, int], NDArray[np.uint8]]] = {}
    for plan in NestedPlan:
        under = model.under(plan)
        (shape,), (packed,) = layer_shapes(under, SMALL), under.layers
        layer = compile_layer(SMALL, 9, 29, shape.pattern, 1, rest=shape.rest, groups=1)
        stream = layer.weight_image(*layer_cells(packed, layer))
        words, of_tile, place = [one.words for one in layer.schedule.instructions if hasattr(one, "macro")], {}, 0
        for number, count in zip(layer.schedule.tiles, words, strict=True):
            tile = layer.tiling.tiles[number]
            of_tile[tile.output_tile, tile.k_tile] = stream[place : place + count]
            place += count
        images[plan] = of_tile
    assert len(images[NestedPlan.SPARSER]) > 2
    assert len(images[NestedPlan.DENSER]) > len(images[NestedPlan.SPARSER])
    for key, image in images[NestedPlan.SPARSER].items():
        whole = images[NestedPlan.DENSER][key]
        # The last word may be padded in one and go on in the other.
        np.testing.assert_array_equal(whole[: len(image) - 1], image[:-1])
        np.testing.assert_array_equal(whole[len(image) - 1][image[-1] != 0], image[-1][image[-1] != 0])


def test_a_menu_without_the_parts_takes_their_sum():
    model, matrices = nested_model()
    config = ACCELERATORS["three macros, narrow buses"]
    shapes = layer_shapes(model, config)
    assert all(shape.rest is None for shape in shapes)
    layers = compile_model(config, shapes, 2)
    backend = GoldenBackend(model, config)
    activations = np.random.default_rng(153).integers(-128, 128, (2, 70)).astype(np.int8)
    for name in layers:
        product = activations.astype(np.int64) @ matrices[NestedPlan.DENSER][name].T.astype(np.int64)
        np.testing.assert_array_equal(backend.multiply(name, activations), product)


# --- The commands ----------------------------------------------------------------------------------------------------


def write_nested(folder, model):
    """A checkpoint, and its block layers packed as 2:4 and all that is left."""
    layers = []
    for block in find_blocks(model):
        for layer in block.layers:
            of_base = nm_mask(layer.weight.abs(), Pattern(2, 4))
            base, rest, scales = quantize_nested(Nested(layer.weight * of_base, layer.weight * ~of_base))
            tiling = LayerTiling(SMALL.macro, *layer.shape, Pattern(2, 4), 1, "a test", Pattern(2, 4))
            weights, offsets = pack_layer(tiling, base.numpy(), rest.numpy())
            layers.append(
                PackedLayer(
                    name=layer.name,
                    tiling=tiling,
                    activation_scale=None,
                    weight_scales=scales.numpy(),
                    weights=weights,
                    offsets=offsets,
                )
            )
    write_packed(folder / "packed", PackedModel(SMALL.macro, {}, layers))
    save_tiny(folder / "checkpoint", model)
    SMALL.to_toml(folder / "small.toml")
    return folder


@pytest.mark.parametrize("name", MODELS)
def test_the_same_text_from_each_backend_with_a_plan_for_each_phase(name, tmp_path, capsys):
    folder = write_nested(tmp_path, MODELS[name]())
    cycles = []
    for plans in ("denser sparser", "sparser sparser"):
        plan, decode_plan = plans.split()
        found = []
        for backend in ("torch", "golden", "verilator"):
            words = ["--model", str(folder), "--prompt", "In the", "--tokens", "4", "--backend", backend]
            words += ["--config", str(folder / "small.toml"), "--plan", plan, "--decode-plan", decode_plan]
            assert main(["generate-text", *words]) == 0
            out, err = capsys.readouterr()
            found.append(out)
            assert ("all equal" in err) == (backend != "torch")
            assert ("as many as the cycle model says" in err) == (backend == "verilator")
        assert len(set(found)) == 1
        cycles.append(int(err[: err.index(" cycles")].rpartition("\n")[2].replace(",", "")))
    assert cycles[1] < cycles[0]


class Recorder(TorchBackend):
    """Remembers how many vectors it was given."""

    def __init__(self, model):
        super().__init__(model)
        self.vectors = []

    def multiply(self, name, activations):
        self.vectors.append(len(activations))
        return super().multiply(name, activations)


def test_decode_is_all_that_comes_after_the_first_token():
    prefill, decode = (Recorder(nested_model()[0]) for _ in range(2))
    phased = PhasedBackend(prefill, decode)
    phased.multiply("a", np.zeros((5, 70), np.int8))
    phased.decoding = True
    phased.multiply("a", np.zeros((1, 70), np.int8))
    assert (prefill.vectors, decode.vectors) == ([5], [1])


def test_compile_and_cycles_take_a_plan(tmp_path):
    model, matrices = nested_model(SMALL.macro, PATTERNS, (21, 37))
    write_packed(tmp_path / "packed", model)
    SMALL.to_toml(tmp_path / "small.toml")
    places = [str(tmp_path / "packed"), "--config", str(tmp_path / "small.toml")]
    size = {}
    for plan in NestedPlan:
        out = tmp_path / plan.value
        assert main(["compile", *places, "-o", str(out), "--plan", plan.value]) == 0
        schedule = json.loads((out / "schedule.json").read_text())
        assert schedule["layers"][0]["pattern"] == ("2:4 + 2:4" if plan is NestedPlan.DENSER else "2:4")
        size[plan] = sum(layer["weights"]["words"] for layer in schedule["layers"])
        golden, activations = GoldenAccelerator(SMALL), np.arange(37, dtype=np.int8)[None]
        for layer in (one for one in schedule["layers"] if not one["resident"]):
            weights = np.fromfile(out / layer["weights"]["file"], np.uint8).reshape(-1, SMALL.weight_bus // 8)
            streams = WordStream(weights), WordStream(activation_words(layer, activations))
            programs = [np.fromfile(out / one["file"], "<u4").reshape(-1, 4) for one in layer["programs"]]
            results = [golden.execute(program.astype(np.uint32), *streams).results for program in programs]
            product = activations.astype(np.int64) @ matrices[plan][layer["name"]].T.astype(np.int64)
            np.testing.assert_array_equal(_outputs(layer, np.concatenate(results)), product)
        assert not golden.error
    assert size[NestedPlan.SPARSER] < size[NestedPlan.DENSER]
    words = ["cycles", *places, "--json", str(tmp_path / "cycles.json")]
    assert main([*words, "--plan", "denser", "--decode-plan", "sparser"]) == 0
    phases = json.loads((tmp_path / "cycles.json").read_text())["phases"]
    assert [phase["layers"][0]["pattern"] for phase in phases] == ["2:4 + 2:4", "2:4"]


def activation_words(layer, activations):
    """The run images of a layer, from the entries of the JSON, where base and rest may lie in one."""
    macro = SMALL.macro
    images: list[NDArray[np.uint8]] = []
    for one in layer["activations"]:
        # The pattern of 2:4 + 1:1 changes with the tile: 2:4 covers all inputs first.
        base_tiles = -(-37 // (macro.rows * window_of(layer, "2:4")))
        first = len(images) < base_tiles or "1:1" not in layer["pattern"]
        window = window_of(layer, "2:4" if first else "1:1")
        part = activations[0, one["first_input"] : one["first_input"] + one["inputs"]]
        elements = np.pad(part, (0, -len(part) % window))
        if "rest_row" in one:
            elements = np.pad(elements, (0, one["rest_row"] * window - len(elements)))
            rest = activations[0, one["rest_first_input"] : one["rest_first_input"] + one["rest_inputs"]]
            elements = np.concatenate([elements, rest])
        per_beat = macro.windows_per_beat(window) * window
        beats = np.zeros((one["beats"], macro.activation_port), np.int8)
        for beat in range(one["beats"]):
            chunk = elements[beat * per_beat : (beat + 1) * per_beat]
            beats[beat, : len(chunk)] = chunk
        data = np.zeros(one["words"] * SMALL.activation_bus // 8, np.uint8)
        data[: beats.size] = beats.view(np.uint8).reshape(-1)
        images.append(data)
    return np.concatenate(images).reshape(-1, SMALL.activation_bus // 8)


def window_of(layer, pattern):
    return SMALL.macro.window(Pattern.parse(pattern), layer["mapping"]["groups"])


def test_a_model_of_one_plan_has_no_sparser_one(tmp_path, capsys):
    model, _ = nested_model(SMALL.macro, ["2:4"], (21, 37))
    write_packed(tmp_path / "packed", model)
    for words in (["cycles"], ["compile", "-o", str(tmp_path / "out")]):
        assert main([words[0], str(tmp_path / "packed"), *words[1:], "--plan", "sparser"]) == 2
        message = "flexcim: the packed model has only one plan, so it cannot be run under a sparser one\n"
        assert capsys.readouterr().err == message


def test_a_menu_that_has_neither_the_parts_nor_their_sum_is_told():
    model, _ = nested_model(MacroConfig.from_mapping({"patterns": ["2:8", "1:4"]}), ["2:8 1:4"], (9, 70))
    only = AcceleratorConfig(macro=MacroConfig.from_mapping({"patterns": ["1:2"]}))
    with pytest.raises(CompileError, match="layer 'a': pattern 1:1 is not on the menu 1:2"):
        layer_shapes(model, only)
