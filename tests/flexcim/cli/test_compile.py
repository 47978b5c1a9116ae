"""``flexcim compile`` from the command line, down to what its files hold."""

from __future__ import annotations

import json

import numpy as np
import pytest

from flexcim.accelerator.instructions import AcceleratorProgram
from flexcim.cli import main
from flexcim.config.accelerator import AcceleratorConfig
from flexcim_sim.golden.accelerator import GoldenAccelerator, WordStream
from tests.support.packed_folders import CONFIG, call, packed_folder


@pytest.fixture
def packed(tmp_path):
    """A packed model on disk, the accelerator's configuration beside it, and the matrices."""
    return tmp_path, packed_folder(tmp_path)


def test_the_files_alone_are_enough_to_run_the_model(packed, capsys):
    folder, matrices = packed
    assert call(folder, "compile", "-o", str(folder / "out"), "--vectors", "3") == 0
    assert "cycles for 3 vectors of each layer" in capsys.readouterr().out
    schedule = json.loads((folder / "out" / "schedule.json").read_text())
    config = AcceleratorConfig.from_mapping(schedule["config"])
    assert config == CONFIG
    golden = GoldenAccelerator(config)
    rng = np.random.default_rng(122)

    def read(name, bus):
        return np.fromfile(folder / "out" / name, np.uint8).reshape(-1, bus // 8)

    def program(entry):
        words = np.fromfile(folder / "out" / entry["file"], "<u4").reshape(-1, 4).astype(np.uint32)
        assert len(AcceleratorProgram.from_words(words, config.macro)) == entry["instructions"] == len(words)
        return words

    nothing = np.zeros((0, 1), np.uint8)
    for resident in (True, False):
        for layer in (one for one in schedule["layers"] if one["resident"] is resident):
            weights = WordStream(read(layer["weights"]["file"], config.weight_bus))
            assert len(weights.words) == layer["weights"]["words"]
            for entry in layer["loading"]:
                golden.execute(program(entry), weights, WordStream(nothing))
            assert sum(one["words"] for one in layer["activations"]) == sum(
                one["activation_words"] for one in layer["programs"]
            )
            activations = rng.integers(-128, 128, (3, layer["inputs"])).astype(np.int8)
            stream = WordStream(_activation_words(config, layer, activations))
            results = [golden.execute(program(entry), weights, stream).results for entry in layer["programs"]]
            product = activations.astype(np.int64) @ matrices[layer["name"]].T.astype(np.int64)
            assert (_outputs(layer, np.concatenate(results)) == product).all()
            assert layer["bound"] == max(layer["busy"], key=lambda name: layer["busy"][name])
    assert any(layer["resident"] for layer in schedule["layers"])
    assert not golden.error


def _activation_words(config, layer, activations):
    """The run images, from the entries of the JSON: one row window after the other, 16 elements to a beat here."""
    macro, images = config.macro, []
    assert macro.activation_bits == 8
    for one in layer["activations"]:
        vectors = activations[one["first_vector"] : one["first_vector"] + one["vectors"]]
        part = vectors[:, one["first_input"] : one["first_input"] + one["inputs"]]
        window = macro.sub_macros // layer["mapping"]["groups"] // int(layer["pattern"][0]) * int(layer["pattern"][2:])
        f = macro.windows_per_beat(window)
        assert f
        beats = np.zeros((one["vectors"], one["beats"], macro.activation_port), np.int8)
        for beat in range(one["beats"]):
            elements = part[:, beat * f * window : (beat + 1) * f * window]
            beats[:, beat, : elements.shape[1]] = elements
        data = np.zeros(one["words"] * config.activation_bus // 8, np.uint8)
        data[: beats.size] = beats.view(np.uint8).reshape(-1)
        images.append(data)
    return np.concatenate(images).reshape(-1, config.activation_bus // 8)


def _outputs(layer, data):
    """The sums, from the entries of the JSON."""
    sums = np.zeros((layer["vectors"], layer["outputs"] + 1000), np.int32)
    elements = data.view("<i4")
    for part in layer["results"]:
        size = part["vectors"] * part["tiles"] * part["tile_sums"]
        block = elements[:size].reshape(part["vectors"], part["tiles"], -1)[:, :, : part["tile_outputs"]]
        block = block.reshape(part["vectors"], -1)
        vectors = slice(part["first_vector"], part["first_vector"] + part["vectors"])
        sums[vectors, part["first_output"] : part["first_output"] + block.shape[1]] = block
        elements = elements[size:]
    assert not elements.size
    return sums[:, : layer["outputs"]]


def test_a_compiled_model_is_replaced_and_nothing_else(packed, capsys, monkeypatch):
    folder, _ = packed
    out = folder / "out"
    assert call(folder, "compile", "-o", str(out)) == 0
    (out / "0000_a.pass0.bin").unlink()
    assert call(folder, "compile", "-o", str(out)) == 0
    assert (out / "0000_a.pass0.bin").exists()
    assert not list(folder.glob(".out*"))
    (out / "schedule.json").write_text("{}")
    capsys.readouterr()
    monkeypatch.setattr("flexcim.compiler.model.compile_model", None)  # what follows is refused before the work
    assert call(folder, "compile", "-o", str(out)) == 2
    assert "is not empty and holds no compiled model, so it is not replaced" in capsys.readouterr().err
    assert call(folder, "compile", "-o", str(folder / "accelerator.toml")) == 2
    assert "is a file, so no compiled model can be written there" in capsys.readouterr().err
    assert call(folder, "compile", "-o", str(folder / "accelerator.toml" / "x")) == 2
    assert "cannot be written" in capsys.readouterr().err


@pytest.mark.parametrize("words", [["compile", "-o", "out"], ["cycles"]])
def test_a_folder_that_is_no_packed_model_is_told(words, packed, capsys, monkeypatch):
    folder, *_ = packed
    monkeypatch.chdir(folder)
    for given, said in (
        ("none", "none: there is no such folder"),
        (".", ".: is no packed model, it has no manifest.json; was packed meant?"),
    ):
        assert main([words[0], given, *words[1:]]) == 2
        assert capsys.readouterr().err == f"flexcim: {said}\n"
    assert not (folder / "out").exists()


def test_a_preset_is_enough(packed, capsys):
    folder, _ = packed
    arguments = ["compile", str(folder / "packed"), "--preset", "accelerator-2", "-o", str(folder / "two")]
    assert main(arguments) == 0
    assert "1 vector of each layer" in capsys.readouterr().out
    assert main([*arguments[:3], "nothing", *arguments[4:]]) == 2
    assert "unknown preset 'nothing'" in capsys.readouterr().err
