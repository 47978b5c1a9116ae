"""Calibration: which samples a model gets, and what it cannot be asked for."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from flexcim.config.pattern import Pattern
from flexcim.quiet import quiet
from flexcim_flow.choice.problem import Choice
from flexcim_flow.choice.selector import SELECTORS
from flexcim_flow.model.checkpoint import Checkpoint, load_checkpoint
from flexcim_flow.prune import calibration
from flexcim_flow.prune.calibration import Calibration, PruneError
from flexcim_flow.prune.plan import Plan
from flexcim_flow.prune.pruner import prune
from flexcim_flow.prune.request import PruneRequest
from flexcim_flow.samples.text import TextError, set_apart
from flexcim_flow.samples.windows import window_of
from tests.support.model_families import MASK, tiny_family, tiny_inputs
from tests.support.prune_requests import asked
from tests.support.tiny_models import TEXT, byte_tokenizer, save_tiny, tiny_llama

pytestmark = pytest.mark.torch


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    path = tmp_path_factory.mktemp("text") / "text.txt"
    path.write_text(TEXT, encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_tiny(tmp_path_factory.mktemp("model"), tiny_llama())


def calibrate(request: PruneRequest, checkpoint: Checkpoint) -> Calibration:
    """What the pruner calibrates on."""
    return calibration.calibrate(request, checkpoint, window_of(request.length, checkpoint))


def check_abilities(request: PruneRequest, checkpoint: Checkpoint) -> None:
    calibration.check_abilities(request, checkpoint, window_of(request.length, checkpoint))


def test_measured_choices_and_their_plans_set_the_same_part_apart(folder, text):
    checkpoint = load_checkpoint(folder)
    options = {"calibration": text, "samples": 3, "length": 16, "seed": 2}
    for method in SELECTORS.own:
        plan = Plan(Path("p"), method, None, None, {"l": Choice(Pattern(1, 1), 0.0, "")})
        chosen = calibrate(asked(folder, sparsity=0.5, method=method, **options), checkpoint)
        planned = calibrate(asked(folder, plan=plan, **options), checkpoint)
        assert torch.equal(chosen.samples, planned.samples)
        assert chosen.samples.shape == (3, 16)
        assert len(chosen.guard) == (3 if method == "measured" else 0)
    whole = calibrate(asked(folder, sparsity=0.5, **options), checkpoint).tokens
    assert len(whole) == len(TEXT.encode())
    assert sum(map(len, set_apart(whole, 16))) == len(whole)


def test_windows_longer_than_the_context_are_refused(folder, text):
    with pytest.raises(TextError, match=r"^length must be at most the 64 tokens that the model sees at once, not 65$"):
        prune(asked(folder, sparsity=0.5, calibration=text, length=65))
    checkpoint = load_checkpoint(folder)
    assert calibrate(asked(folder, sparsity=0.5, calibration=text, samples=1), checkpoint).samples.shape == (1, 64)


def test_tokens_that_the_model_does_not_know_are_refused(text, tmp_path):
    model = tiny_llama()
    model.resize_token_embeddings(200)
    folder = save_tiny(tmp_path, model)
    with pytest.raises(TextError, match=r"gives token 2\d\d, but the model has only 200$"):
        prune(asked(folder, sparsity=0.5, calibration=text))


def test_a_recovery_needs_one_token_more(folder, tmp_path):
    path = tmp_path / "short.txt"
    path.write_text(TEXT[:32].replace("–", "-"))
    options = {"sparsity": 0.5, "method": "owl", "calibration": path, "length": 32}
    checkpoint = load_checkpoint(folder)
    assert len(calibrate(asked(folder, **options), checkpoint).samples)
    with pytest.raises(PruneError, match=r"^a recovery needs a calibration text of more than 32 tokens, not 32$"):
        calibrate(asked(folder, recover=1, **options), checkpoint)


def test_what_a_masked_model_reads_is_masked(text, tmp_path):
    options = {"sparsity": 0.5, "calibration": text, "samples": 3, "length": 20, "seed": 2}
    with quiet():
        masked = load_checkpoint(save_tiny(tmp_path / "masked", tiny_family("bert"), mask=MASK))
        plain = load_checkpoint(save_tiny(tmp_path / "plain", tiny_family("bert")))
        causal = load_checkpoint(save_tiny(tmp_path / "causal", tiny_family("llama"), mask=MASK))
    found = calibrate(asked(tmp_path / "masked", **options), masked)
    assert found.mask == MASK
    for checkpoint in (plain, causal):
        unmasked = calibrate(asked(checkpoint.folder, **options), checkpoint)
        assert unmasked.mask is None
        for samples, others in ((found.samples, unmasked.samples), (found.guard, unmasked.guard)):
            assert samples.shape == others.shape == (3, 20)
            assert ((samples == MASK).sum(dim=1) == 3).all()
            assert torch.equal(samples[samples != MASK], others[samples != MASK])
    assert not (found.tokens == MASK).any()
    # Methods that compare nothing get such samples, too.
    assert torch.equal(
        (calibrate(asked(tmp_path / "masked", method="owl", **options), masked).samples == MASK).sum(dim=1),
        torch.tensor([3, 3, 3]),
    )


def test_a_mask_that_the_model_does_not_know_is_refused(text, tmp_path):
    with quiet():
        folder = save_tiny(tmp_path / "bert", tiny_family("bert"))
        tokenizer = byte_tokenizer()
        tokenizer.add_special_tokens({"mask_token": "[MASK]"})
        tokenizer.save_pretrained(folder)
    with pytest.raises(TextError, match=r"^the tokenizer of bert gives token 256, but the model has only 256$"):
        prune(asked(folder, sparsity=0.5, calibration=text, length=16))


@pytest.fixture(scope="module")
def vit(tmp_path_factory):
    with quiet():
        return save_tiny(tmp_path_factory.mktemp("models") / "vit", tiny_family("vit"))


def test_measuring_sets_images_apart(vit, tmp_path):
    checkpoint = load_checkpoint(vit)
    images = tiny_inputs(checkpoint.model, samples=17)
    save_file({"pixel_values": images}, tmp_path / "images")
    options = {"sparsity": 0.5, "calibration": tmp_path / "images", "samples": 20, "seed": 1}
    found = calibrate(asked(vit, **options), checkpoint)
    assert (len(found.samples), len(found.guard), found.mask) == (15, 2, None)
    every = torch.cat([found.samples, found.guard]).flatten(1).sum(dim=1).sort().values
    assert torch.equal(every, images.flatten(1).sum(dim=1).sort().values)
    assert len(calibrate(asked(vit, **options | {"samples": 1}), checkpoint).guard) == 1
    others = calibrate(asked(vit, method="paper", **options), checkpoint)
    assert (len(others.samples), len(others.guard)) == (17, 0)


@pytest.mark.parametrize(
    ("labels", "task", "told"),
    [
        (1, None, "num_labels 1 and problem_type single_label_classification"),
        (3, "multi_label_classification", "num_labels 3 and problem_type multi_label_classification"),
    ],
)
def test_answers_that_are_no_probabilities_of_labels_are_not_compared(labels, task, told, tmp_path):
    with quiet():
        model = tiny_family("vit")
        model.config.num_labels, model.config.problem_type = labels, task
        model.classifier = torch.nn.Linear(32, labels)
        checkpoint = load_checkpoint(save_tiny(tmp_path / "vit", model))
    options = {"sparsity": 0.5, "calibration": tmp_path / "images"}
    with pytest.raises(
        PruneError,
        match=rf"^vit has {told}, but method measured compares probabilities of 2 or more labels that exclude each "
        r"other; use paper, uniform, owl$",
    ):
        check_abilities(asked(tmp_path / "vit", **options), checkpoint)
    check_abilities(asked(tmp_path / "vit", method="owl", **options), checkpoint)


def test_samples_of_one_token_predict_nothing_to_compare(folder, text):
    options = {"sparsity": 0.5, "calibration": text, "samples": 4, "length": 1}
    with pytest.raises(
        PruneError,
        match=r"^method measured compares what the model predicts within a sample, which takes a length of at least 2, "
        r"not 1; use paper, uniform, owl$",
    ):
        prune(asked(folder, **options))
    assert prune(asked(folder, method="uniform", **options)).sparsity >= 0.5


@pytest.mark.parametrize("samples", [10**9, 10**30])
def test_samples_that_no_memory_holds_are_refused(samples, folder, text):
    with pytest.raises(
        TextError,
        match=rf"^{samples} calibration samples of 32 tokens take at least \d+ GiB of memory, but this machine has \d+ "
        r"GiB; ask for fewer samples, or shorter ones$",
    ):
        prune(asked(folder, sparsity=0.5, method="uniform", calibration=text, samples=samples, length=32))


def test_an_encoder_is_not_recovered(text, tmp_path):
    with quiet():
        checkpoint = load_checkpoint(save_tiny(tmp_path / "bert", tiny_family("bert")))
    request = asked(tmp_path / "bert", sparsity=0.5, method="owl", calibration=text, recover=5)
    with pytest.raises(
        PruneError,
        match=r"^bert does not predict the next token, so there is no loss to recover it by; recovery steps must be 0$",
    ):
        check_abilities(request, checkpoint)


def test_images_have_no_length(vit, tmp_path):
    request = asked(vit, sparsity=0.5, calibration=tmp_path / "images", length=32)
    with pytest.raises(PruneError, match=r"^vit reads images, which have no tokens, so that a length has no effect$"):
        check_abilities(request, load_checkpoint(vit))
