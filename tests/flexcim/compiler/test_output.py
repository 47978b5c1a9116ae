"""Compiled models on disk: what the schedule says lies there, in one piece or not at all.

That the files alone are enough to run the model is tested in tests/flexcim/cli/test_compile.py.
"""

from __future__ import annotations

import json
import re
from dataclasses import replace

import numpy as np
import pytest

from flexcim.compiler.layer import compile_layer
from flexcim.compiler.mapping import CompileError
from flexcim.compiler.model import LayerShape
from flexcim.compiler.output import SCHEDULE, check_compiled, write_compiled
from flexcim.config.accelerator import AcceleratorConfig
from flexcim.config.pattern import Pattern
from flexcim.packed.model import PackedModel
from tests.flexcim.compiler.test_model import packed_model
from tests.support.accelerators import ACCELERATORS
from tests.support.packed_models import nested_model

CONFIG = ACCELERATORS["three macros, narrow buses"]
SHAPES = [LayerShape("h.0/../up proj", 30, 40, Pattern(2, 4)), LayerShape("x" * 100, 7, 16, Pattern(1, 1))]
EMPTY = PackedModel(CONFIG.macro, {}, ())


def compiled(config, model, vectors=3):
    return {
        layer.name: compile_layer(
            config, layer.tiling.outputs, layer.tiling.inputs, layer.tiling.pattern, vectors, rest=layer.tiling.rest
        )
        for layer in model.layers
    }


@pytest.fixture
def model():
    return packed_model(CONFIG.macro, SHAPES, np.random.default_rng(131))[0]


def test_the_schedule_names_each_file_and_what_it_holds(model, tmp_path):
    layers = compiled(CONFIG, model)
    write_compiled(tmp_path / "out", CONFIG, model, layers)
    document = json.loads((tmp_path / "out" / SCHEDULE).read_text(encoding="utf-8"))
    assert (document["format"], document["metadata"]) == ("flexcim compiled model", {"model": "a test"})
    assert AcceleratorConfig.from_mapping(document["config"]) == CONFIG
    named = {SCHEDULE}
    for entry, packed in zip(document["layers"], model.layers, strict=True):
        layer = layers[packed.name]
        tiling = packed.tiling
        assert (entry["name"], entry["outputs"], entry["inputs"]) == (packed.name, tiling.outputs, tiling.inputs)
        assert entry["weight_scales"] == packed.weight_scales.tolist()
        assert entry["cycles"]["cycles"] == layer.cycles.cycles
        weights = tmp_path / "out" / entry["weights"]["file"]
        assert weights.stat().st_size == entry["weights"]["words"] * CONFIG.weight_bus // 8
        programs = entry["loading"] + entry["programs"]
        assert sum(one["weight_words"] for one in programs) == entry["weights"]["words"]
        assert sum(one["activation_words"] for one in programs) == sum(one["words"] for one in entry["activations"])
        for one in programs:
            assert (tmp_path / "out" / one["file"]).stat().st_size == 16 * one["instructions"]
        named |= {entry["weights"]["file"], *(one["file"] for one in programs)}
    assert {path.name for path in (tmp_path / "out").iterdir()} == named
    assert all(re.fullmatch(r"[A-Za-z0-9._-]{1,110}", name) for name in named)


def test_run_images_cover_each_input_of_each_vector(model, tmp_path):
    write_compiled(tmp_path / "out", CONFIG, model, compiled(CONFIG, model, 5))
    for entry in json.loads((tmp_path / "out" / SCHEDULE).read_text())["layers"]:
        covered = np.zeros((5, entry["inputs"]), int)
        for one in entry["activations"]:
            vectors = slice(one["first_vector"], one["first_vector"] + one["vectors"])
            covered[vectors, one["first_input"] : one["first_input"] + one["inputs"]] += 1
        assert covered.min() >= 1
        left = np.zeros((5, entry["outputs"]), int)
        for one in entry["results"]:
            vectors = slice(one["first_vector"], one["first_vector"] + one["vectors"])
            stop = one["first_output"] + one["tiles"] * one["tile_outputs"]
            left[vectors, one["first_output"] : stop] += 1
        assert (left == 1).all()


def test_the_rest_of_a_nested_layer_begins_at_a_row_of_its_own(tmp_path):
    """2:8 + 2:8 of 20 inputs at G = 1: windows of 16, so that the base has rows 0 and 1 and the rest rows 2 and 3."""
    model, _ = nested_model(patterns=("2:8 2:8",), shape=(4, 20))
    config = AcceleratorConfig(macro=model.config, macros=1)
    layer = model.layers[0].tiling
    found = compile_layer(config, 4, 20, layer.pattern, 1, rest=layer.rest, groups=1)
    packed = PackedModel(model.config, {}, model.layers)
    write_compiled(tmp_path / "out", config, packed, {"a": found})
    (entry,) = json.loads((tmp_path / "out" / SCHEDULE).read_text())["layers"]
    (image,) = entry["activations"]
    assert {key: image[key] for key in ("first_input", "inputs", "rest_row", "rest_first_input", "rest_inputs")} == {
        "first_input": 0,
        "inputs": 20,
        "rest_row": 2,
        "rest_first_input": 0,
        "rest_inputs": 20,
    }


def test_a_failure_leaves_what_was_there(model, tmp_path):
    layers = compiled(CONFIG, model)
    write_compiled(tmp_path / "out", CONFIG, model, layers)
    before = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    narrow = replace(CONFIG, macro=replace(CONFIG.macro, weight_bits=2))
    last = model.layers[-1].name
    with pytest.raises(CompileError, match=rf"^layer '{last}': weights must fit 2 bits, -2 to 1, not "):
        write_compiled(tmp_path / "out", CONFIG, model, layers | {last: compiled(narrow, model)[last]})
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == before
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize("write", [check_compiled, lambda path: write_compiled(path, CONFIG, EMPTY, {})])
def test_what_is_not_ours_is_not_replaced(write, tmp_path):
    (tmp_path / "file").write_text("mine")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / SCHEDULE).write_text('{"format": "another"}')
    for name, message in (
        ("file", "is a file, so no compiled model can be written there"),
        ("folder", "is not empty and holds no compiled model, so it is not replaced"),
        ("file/below", r"cannot be written \((?:\S*/file: )?(?:Not a directory|File exists)\)"),
    ):
        with pytest.raises(CompileError, match=f"^{re.escape(str(tmp_path / name))}: {message}$"):
            write(tmp_path / name)
    assert (tmp_path / "file").read_text() == "mine"
    assert (tmp_path / "folder" / SCHEDULE).read_text() == '{"format": "another"}'


def test_a_folder_that_can_be_written_is_left_to_be_made(tmp_path):
    check_compiled(tmp_path / "deep" / "out")
    assert list((tmp_path / "deep").iterdir()) == []
