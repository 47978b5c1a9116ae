"""Nested packed models: both plans from one set of files, and one sentence for whatever is wrong with them."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import replace

import numpy as np
import pytest
import safetensors.numpy

from flexcim.config.pattern import Pattern
from flexcim.packed.cells import pack_layer, unpack_layer
from flexcim.packed.folder import read_packed, write_packed
from flexcim.packed.layer import PackedError
from flexcim.packed.manifest import MANIFEST, NESTED_SCHEMA_VERSION, SCHEMA_VERSION
from flexcim.packed.plans import NestedPlan
from tests.support.docs import docs_text
from tests.support.packed_models import edit, nested_model


@pytest.fixture
def folder(tmp_path):
    write_packed(tmp_path / "model", nested_model()[0])
    return tmp_path / "model"


@pytest.mark.parametrize("plan", NestedPlan)
@pytest.mark.parametrize("stored", [False, True])
def test_each_plan_is_its_integer_matrices(plan, stored, folder):
    model, matrices = nested_model()
    under = (read_packed(folder) if stored else model).under(plan)
    assert under.nested == (plan is NestedPlan.DENSER)
    assert list(under.tilings) == list("abc")
    for layer in under.layers:
        assert layer.tiling == under.tilings[layer.name]
        found = unpack_layer(layer.tiling, layer.weights, layer.offsets)
        np.testing.assert_array_equal(found, matrices[plan][layer.name])
    assert [layer.name for layer in under.layers[1:]] == ["b", "c"]
    assert under.layers[2].tiling == model.layers[2].tiling


def test_the_sparser_plan_can_be_written_as_a_model_of_its_own(folder, tmp_path):
    """With the bytes that it would have if it had been packed alone."""
    write_packed(tmp_path / "sparser", read_packed(folder).under(NestedPlan.SPARSER))
    assert json.loads((tmp_path / "sparser" / MANIFEST).read_text())["schema_version"] == SCHEMA_VERSION
    read = read_packed(tmp_path / "sparser")
    assert not read.nested
    with pytest.raises(
        PackedError, match="the packed model has only one plan, so it cannot be run under a sparser one"
    ):
        read.under(NestedPlan.SPARSER)
    assert read.under(NestedPlan.DENSER) is read


def test_the_manifest_of_a_nested_model(folder):
    document = json.loads((folder / MANIFEST).read_text())
    assert document["schema_version"] == NESTED_SCHEMA_VERSION == 2
    assert [(layer["pattern"], layer["rest"]) for layer in document["layers"]] == [
        ("2:8", "2:8"),
        ("2:8", "4:8"),
        ("4:8", None),
    ]
    assert "A nested model has schema version 2, all others 1; its layers have the key `rest` besides" in docs_text()
    again = folder.parent / "again"
    write_packed(again, read_packed(folder))
    assert [path.read_bytes() for path in sorted(again.iterdir())] == [
        path.read_bytes() for path in sorted(folder.iterdir())
    ]


def test_nothing_is_stored_twice(folder, tmp_path):
    """A layer of 2:8 + 2:8 has the cells of 4:8, whose tiles it takes."""
    single = tmp_path / "single"
    write_packed(single, nested_model(patterns=("4:8",))[0])
    assert (folder / "0000_a.safetensors").stat().st_size == (single / "0000_a.safetensors").stat().st_size


# --- What is wrong with a nested model -------------------------------------------------------------------------------


def edit_layer(folder, **values):
    edit(folder, lambda document: document["layers"][0].update(values))


def test_a_nested_layer_without_its_rest_is_refused(folder):
    edit(folder, lambda document: document["layers"][0].pop("rest"))
    with pytest.raises(PackedError, match=r"manifest\.json: layer 'a': the key 'rest' is missing"):
        read_packed(folder)


def test_a_rest_in_a_model_of_one_plan_is_refused(folder):
    edit(folder, lambda document: document.update(schema_version=SCHEMA_VERSION))
    with pytest.raises(PackedError, match=r"manifest\.json: layer 'a': unknown key 'rest'"):
        read_packed(folder)


@pytest.mark.parametrize(
    ("rest", "message"),
    [
        ("2:4", "layer 'a': pattern 2:4 is not on the menu 1:1 2:8 4:8"),
        ("half", "layer 'a': a pattern must be written n:m, such as 4:8, not 'half'"),
        (3, "layer 'a': 'rest' has a value of the wrong type, 3"),
        (None, "layer 'a': 'tiles' is "),
        ("4:8", "layer 'a': 'tiles' is "),
    ],
)
def test_a_rest_that_cannot_be_is_refused(rest, message, folder):
    edit_layer(folder, rest=rest)
    with pytest.raises(PackedError, match=re.escape(message)):
        read_packed(folder)


def rewrite(folder, change):
    """Change a layer's arrays, and the checksums with them."""
    path = folder / "0000_a.safetensors"
    arrays = safetensors.numpy.load(path.read_bytes())
    change(arrays)
    data = safetensors.numpy.save(arrays)
    path.write_bytes(data)
    edit_layer(folder, sha256=hashlib.sha256(data).hexdigest())


def test_a_file_without_the_rests_tiles_is_refused(folder):
    layer = nested_model()[0].under(NestedPlan.SPARSER).layers[0]
    rewrite(folder, lambda arrays: arrays.update(weights=layer.weights, offsets=layer.offsets))
    shape = list(nested_model()[0].layers[0].weights.shape)
    message = f"layer 'a': weights must be int8 {shape}, not int8 {list(layer.weights.shape)}"
    with pytest.raises(PackedError, match=re.escape(message)):
        read_packed(folder).layers[0]


def test_a_weight_in_base_and_rest_is_refused(folder):
    model, _ = nested_model()
    layer = model.layers[0]
    base = np.zeros((9, 70), np.int8)
    base[2, 8] = 3
    weights, offsets = pack_layer(layer.tiling, base, base)
    rewrite(folder, lambda arrays: arrays.update(weights=weights, offsets=offsets))
    message = "layer 'a': output 2 has weight 3 at input 8 in the base and 3 in the rest, but a weight is stored once"
    with pytest.raises(PackedError, match=message):
        read_packed(folder).layers[0]
    with pytest.raises(PackedError, match=message):
        read_packed(folder).under(NestedPlan.SPARSER).layers[0]


def test_an_offset_past_the_rests_pattern_is_refused():
    """The base's 2:8 reaches 6, the rest's 4:8 only 4."""
    layer = nested_model()[0].layers[1]
    offsets = layer.offsets.copy()
    tiling = layer.tiling
    place = next(index for index, tile in enumerate(tiling.tiles) if tile.pattern == Pattern(4, 8))
    offsets[0] = np.minimum(offsets[0], 6)
    offsets[place, 0, 0, 0] = 5
    message = (
        f"layer 'b': the offset at [tile, row, sub_macro, column] = [{place}, 0, 0, 0] is 5, but pattern 4:8 reaches"
    )
    with pytest.raises(PackedError, match=re.escape(message)):
        replace(layer, offsets=offsets)
