"""The language models and texts that are shipped in models/, and the script that makes them."""

from __future__ import annotations

import dataclasses
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    GPT2LMHeadModel,
    LlamaForCausalLM,
    Mamba2ForCausalLM,
)
from typer.testing import CliRunner

from scripts import train_models
from scripts.training import loop, recipes
from scripts.training.export import bits_per_byte
from scripts.training.loop import Run, train
from scripts.training.recipes import ModelName, as_tokens
from scripts.training.text import (
    HELDOUT_PIECE_BYTES,
    HELDOUT_STARTS,
    MissingTextError,
    Verse,
    read_verses,
    split_text,
)

pytestmark = pytest.mark.torch

MODELS = Path(__file__).resolve().parents[2] / "models"
CLASSES = {"llama-kjv": LlamaForCausalLM, "mamba2-kjv": Mamba2ForCausalLM, "gpt2-kjv": GPT2LMHeadModel}
MODEL_LIMIT_BYTES = 4_000_000
ALL_LIMIT_BYTES = 12_000_000
BITS_LIMIT = 1.9
EVALUATED_BYTES = 32_768  # a quarter of the held-out text, from five books

for_each_model = pytest.mark.parametrize("folder", CLASSES)


def folder_size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def text(name: str) -> str:
    return (MODELS / "text" / name).read_text(encoding="utf-8")


# --- The models ------------------------------------------------------------------------------------------------------


def load(folder: str) -> Any:
    auto: Any = AutoModelForCausalLM  # its types know nothing of output_loading_info
    model, info = auto.from_pretrained(MODELS / folder, dtype=torch.float32, output_loading_info=True)
    assert not any(info.values()), f"{folder} does not fit its class: {info}"
    return model


@for_each_model
def test_a_model_loads_as_its_class_and_predicts_heldout_text(folder: str) -> None:
    model = load(folder)
    assert type(model) is CLASSES[folder]
    assert model.config.vocab_size == 256
    tokens = as_tokens(text("heldout.txt"))[:EVALUATED_BYTES]
    assert bits_per_byte(model, tokens) <= BITS_LIMIT


@for_each_model
def test_the_block_matrices_are_wide_enough_to_tile(folder: str) -> None:
    matrices = [parameter for name, parameter in load(folder).named_parameters() if name.endswith("proj.weight")]
    assert len(matrices) >= 8
    assert min(matrix.shape[1] for matrix in matrices) >= 128


@for_each_model
def test_the_weights_are_stored_as_float16(folder: str) -> None:
    assert AutoModelForCausalLM.from_pretrained(MODELS / folder).dtype == torch.float16


@for_each_model
@pytest.mark.parametrize(
    "sample",
    [
        "And it came to pass , that",
        "  two  spaces, don't\ttab\r\n\n",
        "äß€𝄞 ÿ \u00ad\u0000\u007f",
        "<|endoftext|> <s> </s>",
        "".join(map(chr, range(0x800))),
        "",
    ],
)
def test_token_ids_are_bytes_and_come_back_as_the_text(folder: str, sample: str) -> None:
    tokenizer = AutoTokenizer.from_pretrained(MODELS / folder)
    assert len(tokenizer) == 256
    tokens = tokenizer(sample)["input_ids"]
    assert tokens == list(sample.encode())
    assert tokenizer.decode(tokens) == sample


@for_each_model
def test_a_model_continues_a_text(folder: str) -> None:
    tokenizer = AutoTokenizer.from_pretrained(MODELS / folder)
    inputs = tokenizer("And it came to pa", return_tensors="pt")
    tokens = load(folder).generate(**inputs, max_new_tokens=2, do_sample=False)
    assert tokenizer.decode(tokens[0]) == "And it came to pass"


@for_each_model
def test_a_model_has_its_card_and_stays_small(folder: str) -> None:
    assert "Bits per byte" in (MODELS / folder / "README.md").read_text(encoding="utf-8")
    assert folder_size(MODELS / folder) <= MODEL_LIMIT_BYTES


def test_all_models_stay_small() -> None:
    assert folder_size(MODELS) <= ALL_LIMIT_BYTES


# --- The texts -------------------------------------------------------------------------------------------------------


def test_the_texts_are_long_enough() -> None:
    assert len(text("heldout.txt").encode()) >= 100_000
    assert len(text("calibration.txt").encode()) >= 250_000


def test_no_heldout_line_is_in_the_calibration_text() -> None:
    assert not set(text("heldout.txt").splitlines()) & set(text("calibration.txt").splitlines())


def test_the_split_keeps_heldout_lines_out_of_the_training() -> None:
    starts = HELDOUT_STARTS
    # Each "book" has one own verse per number, and one that is the same everywhere.
    verses = [
        Verse(book, chapter, line)
        for book, chapter in [*starts, ("Gal", 1), ("Eph", 1)]
        for line in [f"{book} {number} " + "x" * 80 for number in range(300)] + ["And the LORD spake."]
    ]
    verses.insert(0, Verse("Ge", 1, verses[0].text))  # an early copy of a held-out verse
    training, calibration, heldout = (part.splitlines() for part in split_text(verses))
    assert not set(training) & set(heldout)
    assert set(calibration) <= set(training)
    assert {verse.text for verse in verses} == set(training) | set(heldout)
    assert len("\n".join(heldout)) >= len(starts) * HELDOUT_PIECE_BYTES - 1


@pytest.mark.skipif(shutil.which("bible") is None, reason="the packages bible-kjv and bible-kjv-text are not installed")
def test_the_shipped_texts_are_what_the_script_makes(tmp_path: Path) -> None:
    result = CliRunner().invoke(train_models.app, ["--text-only", "--output", str(tmp_path)])
    assert result.exit_code == 0, result.output
    made = {path.name: path.read_bytes() for path in (tmp_path / "text").iterdir()}
    assert made == {path.name: path.read_bytes() for path in (MODELS / "text").iterdir()}


# --- The script ------------------------------------------------------------------------------------------------------


def program_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda _: None)


def text_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    failure = subprocess.CompletedProcess([], returncode=255, stdout=b"", stderr=b"Cannot open data file bible.data\n")
    monkeypatch.setattr(shutil, "which", lambda name: name)
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: failure)


@pytest.mark.parametrize("break_it", [program_is_missing, text_is_missing])
def test_a_missing_package_is_named(break_it, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    break_it(monkeypatch)
    with pytest.raises(MissingTextError, match="apt-get install bible-kjv bible-kjv-text"):
        read_verses()
    result = CliRunner().invoke(train_models.app, ["--text-only", "--output", str(tmp_path)])
    assert result.exit_code == 2
    assert result.output.count("\n") == 1
    assert "apt-get install bible-kjv bible-kjv-text" in result.output
    assert list(tmp_path.iterdir()) == []


TINY_SHAPES = {
    ModelName.llama: {"hidden_size": 32, "intermediate_size": 32, "num_attention_heads": 1, "num_key_value_heads": 1},
    ModelName.mamba2: {"hidden_size": 32, "num_heads": 1, "state_size": 8},
    ModelName.gpt2: {"n_embd": 32, "n_head": 1},
}


@pytest.mark.parametrize("name", TINY_SHAPES)
def test_an_interrupted_run_goes_on_to_the_same_weights(
    name: ModelName, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    recipe = recipes.RECIPES[name]
    layers = "n_layer" if name is ModelName.gpt2 else "num_hidden_layers"
    shape = recipe.shape | TINY_SHAPES[name] | {layers: 1}
    monkeypatch.setitem(recipes.RECIPES, name, dataclasses.replace(recipe, shape=shape))
    monkeypatch.setattr(loop, "CHECKPOINT_STEPS", 3)
    run = Run(name, steps=6, seed=1, threads=torch.get_num_threads(), bfloat16=False)
    tokens = as_tokens("In the beginning " * 200)
    whole, _ = train(run, tokens, tmp_path / "whole", plain=True)

    def interrupt(step: int, steps: int) -> float:
        if step == 4:
            raise KeyboardInterrupt
        return rate_factor(step, steps)

    rate_factor = loop.rate_factor
    with monkeypatch.context() as patch:
        patch.setattr(loop, "rate_factor", interrupt)
        with pytest.raises(KeyboardInterrupt):
            train(run, tokens, tmp_path / "cut", plain=True)
    resumed, _ = train(run, tokens, tmp_path / "cut", plain=True)
    for (parameter, expected), actual in zip(whole.named_parameters(), resumed.parameters(), strict=True):
        assert torch.equal(expected, actual), parameter
