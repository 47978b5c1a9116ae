"""Measurement of a run's stages: each once, and none without a text."""

from __future__ import annotations

import pytest

from flexcim_flow.common.journal import Journal
from flexcim_flow.measure.evaluation import evaluate
from flexcim_flow.measure.stages import Meter
from flexcim_flow.model.checkpoint import load_checkpoint
from flexcim_flow.samples.windows import EvaluationText
from tests.support.tiny_models import OTHER_TEXT, save_tiny, tiny_llama

pytestmark = pytest.mark.torch

TEXT = OTHER_TEXT[:300]
STAGES = ("dense", "dense_quantized", "pruned", "quantized")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return load_checkpoint(save_tiny(tmp_path_factory.mktemp("model"), tiny_llama()))


def test_each_stage_is_measured_once_for_all_processes(checkpoint, tmp_path):
    begun: list[str] = []
    blocks: list[str] = []

    def note(block):
        blocks.append(block.name)
        return block.loaded()

    text = EvaluationText.of(TEXT, checkpoint, 32, 16)
    expected = evaluate(checkpoint.model, text.tokens, len(TEXT.encode()), 32, 16)
    ran = []
    with Journal(tmp_path / "work", {}) as journal:
        for _ in range(2):
            meter = Meter(checkpoint, text, journal.once, begun.append)
            for stage in STAGES:
                meter.measure(stage, note)
            assert tuple(meter.found) == STAGES
            assert meter.found["pruned"].nats == pytest.approx(expected.nats, rel=1e-6)
            ran.append(len(blocks))
    assert ran[0] == ran[1] > 0
    assert begun == [f"evaluating the {stage.replace('_', ', ')} model" for stage in STAGES] * 2


def test_nothing_is_measured_without_a_text(checkpoint):
    meter = Meter(checkpoint, None, lambda name, find: pytest.fail("there is no text"), pytest.fail)
    meter.measure("dense")
    assert meter.found == {}
