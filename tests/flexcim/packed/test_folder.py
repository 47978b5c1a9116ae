"""Packed models: what is written is read back, and whatever is wrong with a folder is said in one sentence."""

from __future__ import annotations

import hashlib
import json
import os
import re
import stat
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy

from flexcim.config.macro import MacroConfig
from flexcim.errors import FlexCiMError
from flexcim.packed.folder import (
    MANIFEST,
    SCHEMA_VERSION,
    PackedError,
    PackedModel,
    read_packed,
    read_pruned,
    write_packed,
)
from tests.flexcim.packed.test_model import BAD_LAYERS, CONFIG, LAYER, make_layer
from tests.support.docs_tables import docs_table

METADATA = {"model": "größe/tiny", "sparsity": 0.5, "notes": [1, None]}


LAYERS = (
    LAYER,
    make_layer("layers.0.up/../proj", "1:1", 9, 33, None),
    make_layer("layers.1.q_proj", "2:4", 20, 70, 1 / 3),
)
MODEL = PackedModel(CONFIG, METADATA, LAYERS)
FIRST = "0000_layers.0.q_proj.safetensors"
SECOND = "0001_layers.0.up_.._proj.safetensors"


@pytest.fixture
def folder(tmp_path):
    write_packed(tmp_path / "model", MODEL)
    return tmp_path / "model"


def assert_same(layer, other):
    assert (layer.name, layer.tiling, layer.activation_scale) == (other.name, other.tiling, other.activation_scale)
    for name in ("weight_scales", "weights", "offsets"):
        array, other_array = getattr(layer, name), getattr(other, name)
        assert array.dtype == other_array.dtype
        np.testing.assert_array_equal(array, other_array)


def assert_is_model(path, model):
    read = read_packed(path)
    assert read.config == model.config
    assert read.metadata == model.metadata
    assert len(read.layers) == len(model.layers)
    for layer, other in zip(read.layers, model.layers, strict=True):
        assert_same(layer, other)


# --- Writing and reading ---------------------------------------------------------------------------------------------


def test_what_is_written_is_read_back(folder):
    assert_is_model(folder, MODEL)
    assert sorted(os.listdir(folder)) == [FIRST, SECOND, "0002_layers.1.q_proj.safetensors", MANIFEST]
    assert os.listdir(folder.parent) == ["model"]


def test_layers_can_be_picked(folder):
    layers = read_packed(folder).layers
    assert_same(layers[-1], LAYERS[2])
    assert [layer.name for layer in layers[1:]] == [layer.name for layer in LAYERS[1:]]
    with pytest.raises(IndexError):
        layers[3]


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


def test_writing_twice_gives_the_same_bytes(folder, tmp_path):
    write_packed(tmp_path / "again", MODEL)
    for path in folder.iterdir():
        assert path.read_bytes() == (tmp_path / "again" / path.name).read_bytes()


def test_others_may_read_as_the_umask_says(tmp_path):
    before = os.umask(0o022)
    try:
        write_packed(tmp_path / "model", MODEL)
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "model").stat().st_mode) == 0o755
    assert stat.S_IMODE((tmp_path / "model" / FIRST).stat().st_mode) == 0o644


def test_layers_are_read_when_they_are_asked_for(folder):
    for path in folder.glob("*.safetensors"):
        path.unlink()
    model = read_packed(folder)
    assert len(model.layers) == 3
    assert model.tilings == {layer.name: layer.tiling for layer in LAYERS} == MODEL.tilings
    with pytest.raises(PackedError, match=rf"{FIRST}: layer 'layers\.0\.q_proj': cannot be read \(No such file"):
        model.layers[0]


def test_arrays_in_any_memory_order_are_written(tmp_path):
    layer = replace(LAYERS[0], weights=np.asfortranarray(LAYERS[0].weights))
    write_packed(tmp_path / "model", PackedModel(CONFIG, {}, [layer]))
    assert_same(read_packed(tmp_path / "model").layers[0], LAYERS[0])


def test_a_model_without_layers(tmp_path):
    write_packed(tmp_path / "deep" / "model", PackedModel(CONFIG, {}, ()))
    assert_is_model(tmp_path / "deep" / "model", PackedModel(CONFIG, {}, ()))


# --- Replacing -------------------------------------------------------------------------------------------------------


def test_a_packed_model_is_replaced(folder):
    other = PackedModel(CONFIG, {}, LAYERS[1:2])
    write_packed(folder, other)
    assert_is_model(folder, other)
    assert os.listdir(folder.parent) == ["model"]


def test_a_packed_model_can_be_written_onto_itself(folder):
    write_packed(folder, read_packed(folder))
    assert_is_model(folder, MODEL)


def test_a_link_keeps_pointing_to_the_model(folder):
    link = folder.parent / "link"
    link.symlink_to(folder)
    write_packed(link, PackedModel(CONFIG, {}, ()))
    assert link.is_symlink()
    assert_is_model(folder, PackedModel(CONFIG, {}, ()))


def test_an_empty_folder_is_filled(tmp_path):
    (tmp_path / "model").mkdir()
    write_packed(tmp_path / "model", MODEL)
    assert_is_model(tmp_path / "model", MODEL)


@pytest.mark.parametrize(
    ("files", "named"),
    [
        ({"thesis.tex": ""}, "thesis.tex"),
        ({MANIFEST: "{}"}, MANIFEST),
        ({MANIFEST: "no JSON", "a.safetensors": ""}, "a.safetensors"),
        ({MANIFEST: json.dumps({"format": "flexcim packed model"}), "notes.txt": ""}, "notes.txt"),
        ({"model.safetensors": ""}, "model.safetensors"),
    ],
)
def test_a_folder_with_something_else_is_left_alone(files, named, tmp_path):
    folder = tmp_path / "folder"
    folder.mkdir()
    for name, text in files.items():
        (folder / name).write_text(text)
    message = f"folder: is not empty and no packed model (it holds {named!r}), so it is not replaced"
    with pytest.raises(PackedError, match=re.escape(message)):
        write_packed(folder, MODEL)
    assert {path.name: path.read_text() for path in folder.iterdir()} == files


def test_a_file_in_the_way_is_left_alone(tmp_path):
    (tmp_path / "model").write_text("mine")
    with pytest.raises(PackedError, match="model: is a file, so no packed model can be written there"):
        write_packed(tmp_path / "model", MODEL)
    assert (tmp_path / "model").read_text() == "mine"


def test_a_failure_leaves_the_old_model_whole(folder):
    def layers():
        yield LAYERS[1]
        raise RuntimeError("the second layer could not be made")

    with pytest.raises(RuntimeError, match="the second layer"):
        write_packed(folder, PackedModel(CONFIG, {}, layers()))
    assert_is_model(folder, MODEL)
    assert os.listdir(folder.parent) == ["model"]


def test_a_failed_rename_brings_the_old_model_back(folder, monkeypatch):
    rename = os.rename

    def failing(source, target):
        if Path(target) == folder and Path(source).suffix == ".new":
            raise OSError(28, "No space left on device")
        rename(source, target)

    monkeypatch.setattr(os, "rename", failing)
    with pytest.raises(PackedError, match=r"model: cannot be written \(No space left on device\)"):
        write_packed(folder, PackedModel(CONFIG, {}, ()))
    monkeypatch.undo()
    assert_is_model(folder, MODEL)
    assert os.listdir(folder.parent) == ["model"]


def test_a_place_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(PackedError, match=r"file/model: cannot be written \(Not a directory\)"):
        write_packed(tmp_path / "file" / "model", MODEL)


@pytest.mark.parametrize("metadata", [{"loss": float("nan")}, {"when": object()}])
def test_metadata_that_json_cannot_hold_is_refused(metadata, tmp_path):
    with pytest.raises((TypeError, ValueError), match="JSON"):
        write_packed(tmp_path / "model", PackedModel(CONFIG, metadata, ()))
    assert os.listdir(tmp_path) == []


def test_two_layers_of_one_name_are_refused(tmp_path):
    with pytest.raises(PackedError, match=r"layer 'layers\.0\.q_proj' is there twice"):
        write_packed(tmp_path / "model", PackedModel(CONFIG, {}, (LAYERS[0], LAYERS[0])))


def test_a_layer_of_another_configuration_is_refused(tmp_path):
    with pytest.raises(PackedError, match=r"layer 'layers\.0\.q_proj' is tiled for another configuration"):
        write_packed(tmp_path / "model", PackedModel(MacroConfig(), {}, LAYERS))


# --- Damaged folders -------------------------------------------------------------------------------------------------


def edit(folder, change):
    """Change the manifest, with its checksum, as a faulty writer would."""
    document = json.loads((folder / MANIFEST).read_text())
    change(document)
    content = {key: value for key, value in document.items() if key != "sha256"}
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    if "sha256" in document:
        document["sha256"] = hashlib.sha256(text.encode("utf-8")).hexdigest()
    (folder / MANIFEST).write_text(json.dumps(document))


def refused(folder, message):
    with pytest.raises(PackedError, match=re.escape(f"{folder / MANIFEST}: {message}")) as error:
        read_packed(folder)
    assert "\n" not in str(error.value)
    assert error.value.__cause__ is None


def test_packed_errors_are_the_users():
    assert issubclass(PackedError, FlexCiMError)


def absent(read, folder, message):
    """The whole of what a reader says of a folder that is no packed model."""
    with pytest.raises(PackedError) as error:
        read(folder)
    assert str(error.value) == f"{folder}: {message}"


def test_a_missing_manifest(tmp_path):
    absent(read_packed, tmp_path, "is no packed model, it has no manifest.json")
    write_packed(tmp_path / "packed", MODEL)
    meant = tmp_path / "packed"
    absent(read_packed, tmp_path, f"is no packed model, it has no manifest.json; was {meant} meant?")


@pytest.mark.parametrize("read", [read_packed, read_pruned])
def test_a_missing_folder(read, tmp_path):
    absent(read, tmp_path / "none", "there is no such folder")
    (tmp_path / "file").touch()
    absent(read, tmp_path / "file", "is a file, but a packed model is a folder")


def test_what_prune_wrote_is_opened(tmp_path):
    write_packed(tmp_path / "packed", MODEL)
    assert read_pruned(tmp_path).metadata == METADATA


def test_a_folder_that_prune_did_not_write(tmp_path):
    message = "has no folder 'packed', so flexcim prune or nest did not write it"
    absent(read_pruned, tmp_path, message)
    write_packed(tmp_path / "packed", MODEL)
    absent(read_pruned, tmp_path / "packed", f"{message}; was {tmp_path} meant?")
    (tmp_path / "packed" / MANIFEST).unlink()
    with pytest.raises(PackedError, match=r"packed: is no packed model, it has no manifest\.json$"):
        read_pruned(tmp_path)


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


def layer_refused(folder, message):
    layers = read_packed(folder).layers
    where = f"{folder / FIRST}: layer 'layers.0.q_proj': "
    with pytest.raises(PackedError, match=f"^{re.escape(where + message)}") as error:
        layers[0]
    assert "\n" not in str(error.value)
    assert_same(layers[1], LAYERS[1])


@pytest.mark.parametrize("damage", ["truncated", "one bit", "empty", "another layer's"])
def test_a_damaged_file(damage, folder):
    data = (folder / FIRST).read_bytes()
    new = {
        "truncated": data[:-1],
        "one bit": data[:-1] + bytes([data[-1] ^ 1]),
        "empty": b"",
        "another layer's": (folder / SECOND).read_bytes(),
    }[damage]
    (folder / FIRST).write_bytes(new)
    layer_refused(
        folder,
        f"the file is damaged or of another model, its SHA-256 is {hashlib.sha256(new).hexdigest()}, "
        f"but the manifest says {hashlib.sha256(data).hexdigest()}",
    )


def overwrite(folder, data):
    """Put other data in the first layer's file, with its checksum, as a faulty writer would."""
    (folder / FIRST).write_bytes(data)
    edit(folder, lambda document: document["layers"][0].update(sha256=hashlib.sha256(data).hexdigest()))


@pytest.mark.parametrize("data", [b"", b"no safetensors", bytes(100)])
def test_a_file_that_is_no_safetensors(data, folder):
    overwrite(folder, data)
    layer_refused(folder, "is no safetensors file (")


ARRAYS = {"weights": LAYER.weights, "offsets": LAYER.offsets, "weight_scales": LAYER.weight_scales}


@pytest.mark.parametrize(
    ("arrays", "held"),
    [
        ({}, "nothing"),
        ({"weights": LAYER.weights, "offsets": LAYER.offsets}, "offsets, weights"),
        ({**ARRAYS, "bias": LAYER.weight_scales}, "bias, offsets, weight_scales, weights"),
    ],
)
def test_a_file_with_other_arrays(arrays, held, folder):
    overwrite(folder, safetensors.numpy.save(arrays))
    layer_refused(folder, f"must hold weights, offsets, weight_scales, not {held}")


@pytest.mark.parametrize("kind", [kind for kind, (changes, _) in BAD_LAYERS.items() if set(changes) <= set(ARRAYS)])
def test_a_file_with_arrays_that_cannot_be(kind, folder):
    changes, message = BAD_LAYERS[kind]
    arrays = {name: np.ascontiguousarray(array) for name, array in {**ARRAYS, **changes}.items()}
    overwrite(folder, safetensors.numpy.save(arrays))
    layer_refused(folder, message)


def test_an_activation_scale_that_cannot_be(folder):
    edit(folder, lambda document: document["layers"][0].update(activation_scale=-1))
    layer_refused(folder, "activation_scale must be finite and positive, not -1.0")


def test_a_whole_number_is_a_scale_too(folder):
    edit(folder, lambda document: document["layers"][0].update(activation_scale=2))
    scale = read_packed(folder).layers[0].activation_scale
    assert scale == 2
    assert isinstance(scale, float)
