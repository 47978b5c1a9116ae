"""The manifest of a packed model: what the contract says is in it, and one sentence for whatever is wrong with it."""

from __future__ import annotations

import hashlib
import json
import re

import pytest

from flexcim.packed.folder import read_packed, write_packed
from flexcim.packed.layer import ARRAYS, PackedError
from flexcim.packed.manifest import MANIFEST, SCHEMA_VERSION
from flexcim.packed.model import PackedModel
from tests.support.docs import docs_table
from tests.support.packed_models import CONFIG, FIRST, LAYERS, MODEL, assert_is_model, edit


@pytest.fixture
def folder(tmp_path):
    write_packed(tmp_path / "model", MODEL)
    return tmp_path / "model"


def test_the_manifest_is_readable(folder):
    text = (folder / MANIFEST).read_text(encoding="utf-8")
    assert "größe" in text
    assert text.startswith("{\n  ")
    document = json.loads(text)
    assert document["schema_version"] == SCHEMA_VERSION == 1
    assert document["config"] == CONFIG.to_mapping()
    assert document["layers"][0] == {
        "name": "layers.0.q_proj",
        "file": FIRST,
        "sha256": hashlib.sha256((folder / FIRST).read_bytes()).hexdigest(),
        "outputs": 20,
        "inputs": 70,
        "pattern": "4:8",
        "groups": 1,
        "reason": LAYERS[0].tiling.reason,
        "tiles": 6,
        "activation_scale": 0.125,
    }


def test_the_contract_names_the_keys(folder):
    """The tables of docs/architecture/packed-model.md, in both directions."""
    told = {
        heading: {name for cells in docs_table(heading) for name in re.findall(r"`(\w+)`", cells[0])}
        for heading in ("key", "key of a layer", "array")
    }
    document = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    assert told == {
        "key": set(document),
        "key of a layer": {*document["layers"][0], "rest"},
        "array": set(ARRAYS),
    }


def refused(folder, message):
    with pytest.raises(PackedError, match=re.escape(f"{folder / MANIFEST}: {message}")) as error:
        read_packed(folder)
    assert "\n" not in str(error.value)
    assert error.value.__cause__ is None


def test_a_manifest_that_is_no_file(tmp_path):
    (tmp_path / MANIFEST).mkdir()
    refused(tmp_path, "cannot be read (Is a directory)")


@pytest.mark.parametrize("data", [b"", b'{"format": ', b"\xff\xfe\xfd"])
def test_a_manifest_that_is_no_json(data, folder):
    (folder / MANIFEST).write_bytes(data)
    refused(folder, "is no JSON (")


@pytest.mark.parametrize("text", ["[]", "{}", '{"format": "other"}'])
def test_a_manifest_of_something_else(text, folder):
    (folder / MANIFEST).write_text(text)
    refused(folder, "is no manifest of a packed model (its 'format' is not 'flexcim packed model')")


@pytest.mark.parametrize("version", [3, 0, "1", None])
def test_an_unknown_schema_version(version, folder):
    edit(folder, lambda document: document.update(schema_version=version, invented=1))
    refused(folder, f"has schema version {version!r}, but this FlexCiM reads 1")


@pytest.mark.parametrize("key", ["sha256", "metadata", "config", "layers"])
def test_a_missing_key(key, folder):
    edit(folder, lambda document: document.pop(key))
    refused(folder, f"the key {key!r} is missing")


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"pattern": "4:8"', '"pattern": "2:4"'),
        ("größe", "groesse"),
        ("0.125", "0.25"),
        ("3333333333333333", "333333333333333"),
    ],
)
def test_a_manifest_that_was_changed(old, new, folder):
    """Even where what it says now is possible: 2:4 makes as many tiles as 4:8."""
    path = folder / MANIFEST
    text = path.read_text(encoding="utf-8")
    written = json.loads(text)["sha256"]
    assert text.count(old) == 1
    path.write_text(text.replace(old, new), encoding="utf-8")
    refused(folder, "was changed after it was written, its SHA-256 is ")
    with pytest.raises(PackedError, match=rf"but it says {written}$"):
        read_packed(folder)


def test_a_manifest_may_be_laid_out_anew(folder):
    document = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    (folder / MANIFEST).write_text(json.dumps(dict(reversed(document.items()))))
    assert_is_model(folder, MODEL)


def test_metadata_with_numbers_as_keys(tmp_path):
    write_packed(tmp_path / "model", PackedModel(CONFIG, {"a": {2: "two", 10: "ten"}}, ()))
    assert read_packed(tmp_path / "model").metadata == {"a": {"2": "two", "10": "ten"}}


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ("1" * 5000, "is no JSON (Exceeds the limit (4300"),
        ("[" * 50_000 + "]" * 50_000, "is no JSON that can be read, its brackets are nested too deeply"),
    ],
)
def test_a_manifest_that_python_cannot_read(metadata, message, folder):
    (folder / MANIFEST).write_text(f'{{"format": "flexcim packed model", "metadata": {metadata}}}')
    refused(folder, message)
    with pytest.raises(PackedError, match="is not empty and no packed model"):
        write_packed(folder, MODEL)


def test_a_scale_that_no_float_can_hold(folder):
    edit(folder, lambda document: document["layers"][0].update(activation_scale=10**400))
    refused(folder, "layer 'layers.0.q_proj': 'activation_scale' is too large, 1")


def test_an_unknown_key(folder):
    edit(folder, lambda document: document.update(invented=1))
    refused(folder, "unknown key 'invented'")


@pytest.mark.parametrize(("key", "value"), [("metadata", 1), ("config", []), ("layers", {})])
def test_a_key_of_the_wrong_type(key, value, folder):
    edit(folder, lambda document: document.update({key: value}))
    refused(folder, f"{key!r} has a value of the wrong type, {value!r}")


def test_a_configuration_without_a_parameter(folder):
    edit(folder, lambda document: document["config"].pop("banks"))
    refused(folder, "config: the key 'banks' is missing")


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("bank", 2, "unknown parameter 'bank'; did you mean 'banks'?"),
        ("banks", 9, "banks must be between 1 and 8, not 9"),
        ("banks", "2", "banks must be an integer, not '2'"),
        ("patterns", ["4:8:1"], "patterns: a pattern must be written n:m, such as 4:8, not '4:8:1'"),
    ],
)
def test_a_configuration_that_cannot_be(key, value, message, folder):
    edit(folder, lambda document: document["config"].update({key: value}))
    refused(folder, f"config: {message}")


LAYER_KEYS = ["name", "file", "sha256", "outputs", "inputs", "pattern", "groups", "reason", "tiles", "activation_scale"]


@pytest.mark.parametrize("key", LAYER_KEYS)
def test_a_layer_without_a_key(key, folder):
    edit(folder, lambda document: document["layers"][2].pop(key))
    name = 2 if key == "name" else "'layers.1.q_proj'"
    refused(folder, f"layer {name}: the key {key!r} is missing")


@pytest.mark.parametrize("key", LAYER_KEYS)
def test_a_layers_key_of_the_wrong_type(key, folder):
    edit(folder, lambda document: document["layers"][0].update({key: True}))
    name = 0 if key == "name" else "'layers.0.q_proj'"
    refused(folder, f"layer {name}: {key!r} has a value of the wrong type, True")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"invented": 1}, "unknown key 'invented'"),
        ({"outputs": 0}, "a layer must have at least one of outputs, not 0"),
        ({"inputs": 300_000}, "a layer of 300000 inputs keeps 150000 at 4:8, and their products"),
        ({"pattern": "4-8"}, "a pattern must be written n:m, such as 4:8, not '4-8'"),
        ({"pattern": "3:4"}, "pattern 3:4 is not on the menu 1:1 4:5"),
        ({"groups": 2}, "pattern 4:8 is legal at groups 1 of this instance"),
        ({"tiles": 7}, "'tiles' is 7, but its shape and groups make 6"),
        ({"file": "../other.safetensors"}, "'file' must be a .safetensors file beside the manifest, not '../other.s"),
        ({"file": "notes.txt"}, "'file' must be a .safetensors file beside the manifest, not 'notes.txt'"),
    ],
)
def test_a_layer_that_cannot_be_read(values, message, folder):
    edit(folder, lambda document: document["layers"][0].update(values))
    refused(folder, f"layer 'layers.0.q_proj': {message}")


def test_a_layer_that_is_no_object(folder):
    edit(folder, lambda document: document["layers"].insert(1, "x"))
    refused(folder, "layer 1 must be an object, not 'x'")


def test_a_name_that_is_there_twice(folder):
    edit(folder, lambda document: document["layers"][2].update(name="layers.0.q_proj"))
    refused(folder, "layer 'layers.0.q_proj' is there twice")
