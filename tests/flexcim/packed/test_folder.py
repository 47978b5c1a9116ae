"""Packed models on disk: what is written is read back, and whatever is wrong with a folder or a layer's file is said in
one sentence."""

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
from flexcim.packed.folder import read_packed, read_pruned, write_packed
from flexcim.packed.layer import PackedError
from flexcim.packed.manifest import MANIFEST
from flexcim.packed.model import PackedModel
from tests.flexcim.packed.test_layer import BAD_LAYERS
from tests.support.packed_models import (
    CONFIG,
    FIRST,
    LAYER,
    LAYERS,
    METADATA,
    MODEL,
    SECOND,
    assert_is_model,
    assert_same,
    edit,
)


@pytest.fixture
def folder(tmp_path):
    write_packed(tmp_path / "model", MODEL)
    return tmp_path / "model"


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


# --- Folders that are no packed model ---------------------------------------------------------------------------------


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


# --- Damaged files ----------------------------------------------------------------------------------------------------


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
