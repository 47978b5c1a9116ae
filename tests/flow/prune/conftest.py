"""Small models of real classes, two texts, and what the published method makes of a model."""

from __future__ import annotations

import pytest
import torch

from flexcim_flow.prune.folder import write_result
from flexcim_flow.prune.pruner import prune
from tests.support.prune_requests import asked
from tests.support.tiny_models import OTHER_TEXT, TEXT, save_tiny, tiny_llama, tiny_mamba2

MODELS = {"llama": tiny_llama, "mamba2": tiny_mamba2}


@pytest.fixture(scope="session")
def text(tmp_path_factory):
    path = tmp_path_factory.mktemp("text") / "text.txt"
    path.write_text(TEXT, encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def other(tmp_path_factory):
    """A text that is none of the calibration's."""
    path = tmp_path_factory.mktemp("text") / "other.txt"
    path.write_text(OTHER_TEXT, encoding="utf-8")
    return path


@pytest.fixture(scope="session", params=MODELS)
def folder(request, tmp_path_factory):
    """A checkpoint in half precision."""
    return save_tiny(tmp_path_factory.mktemp(request.param), MODELS[request.param](), torch.float16)


@pytest.fixture(scope="session")
def result(folder, text, other):
    """What is published: the paper's choice, nothing is updated."""
    return prune(
        asked(
            folder,
            sparsity=0.6,
            calibration=text,
            evaluation=other,
            method="paper",
            samples=5,
            length=40,
            seed=7,
        )
    )


@pytest.fixture(scope="session")
def written(result, tmp_path_factory):
    path = tmp_path_factory.mktemp("written") / "result"
    write_result(path, result)
    return path
