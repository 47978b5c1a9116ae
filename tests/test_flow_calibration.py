"""Calibration: which samples a model gets, and what it cannot be asked for."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from flexcim.pattern import Pattern
from flow.calibration import PruneError, calibrate, check_abilities
from flow.checkpoint import load_checkpoint
from flow.options import Method
from flow.plan import Plan
from flow.pruner import prune
from flow.quiet import quiet
from flow.selectors import Choice
from flow.text import set_apart
from tests.model_families import tiny_family
from tests.prune_requests import asked
from tests.tiny_models import TEXT, save_tiny, tiny_llama


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    path = tmp_path_factory.mktemp("text") / "text.txt"
    path.write_text(TEXT, encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_tiny(tmp_path_factory.mktemp("model"), tiny_llama())


def test_flow_and_its_plans_set_the_same_part_apart(folder, text):
    checkpoint = load_checkpoint(folder)
    options = {"calibration": text, "samples": 3, "length": 16, "seed": 2}
    plans = {method: Plan(Path("p"), method, None, None, {"l": Choice(Pattern(1, 1), 0.0, "")}) for method in Method}
    for method in Method:
        chosen = calibrate(asked(folder, sparsity=0.5, method=method, **options), checkpoint)
        planned = calibrate(asked(folder, plan=plans[method], **options), checkpoint)
        assert torch.equal(chosen.samples, planned.samples)
        assert chosen.samples.shape == (3, 16)
        assert len(chosen.guard) == (3 if method is Method.FLOW else 0)
    whole = calibrate(asked(folder, sparsity=0.5, **options), checkpoint).tokens
    assert len(whole) == len(TEXT.encode())
    assert sum(map(len, set_apart(whole, 16))) == len(whole)


def test_windows_longer_than_the_context_are_refused(folder, text):
    with pytest.raises(PruneError, match=r"^length must be at most the 64 tokens that the model sees at once, not 65$"):
        prune(asked(folder, sparsity=0.5, calibration=text, length=65))
    checkpoint = load_checkpoint(folder)
    assert calibrate(asked(folder, sparsity=0.5, calibration=text, samples=1), checkpoint).samples.shape == (1, 64)


def test_tokens_that_the_model_does_not_know_are_refused(text, tmp_path):
    model = tiny_llama()
    model.resize_token_embeddings(200)
    folder = save_tiny(tmp_path, model)
    with pytest.raises(PruneError, match=r"gives token 2\d\d, but the model has only 200$"):
        prune(asked(folder, sparsity=0.5, calibration=text))


def test_a_recovery_needs_one_token_more(folder, tmp_path):
    path = tmp_path / "short.txt"
    path.write_text(TEXT[:32].replace("–", "-"))
    options = {"sparsity": 0.5, "method": Method.OWL, "calibration": path, "length": 32}
    checkpoint = load_checkpoint(folder)
    assert len(calibrate(asked(folder, **options), checkpoint).samples)
    with pytest.raises(PruneError, match=r"^a recovery needs a calibration text of more than 32 tokens, not 32$"):
        calibrate(asked(folder, recover=1, **options), checkpoint)


def test_an_encoder_is_not_recovered(text, tmp_path):
    with quiet():
        checkpoint = load_checkpoint(save_tiny(tmp_path / "bert", tiny_family("bert")))
    request = asked(tmp_path / "bert", sparsity=0.5, method=Method.OWL, calibration=text, recover=5)
    with pytest.raises(
        PruneError,
        match=r"^bert does not predict the next token, so there is no loss to recover it by; recovery steps must be 0$",
    ):
        check_abilities(request, checkpoint)
