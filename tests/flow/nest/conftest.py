"""A small model and what pruning made of it, to be nested."""

from __future__ import annotations

import pytest

from tests.support.nested_models import prune_tiny
from tests.support.tiny_models import TEXT


@pytest.fixture(scope="session")
def text(tmp_path_factory):
    path = tmp_path_factory.mktemp("text") / "text.txt"
    path.write_text(TEXT, encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def pruned(tmp_path_factory, text):
    return prune_tiny("llama", tmp_path_factory.mktemp("llama"), text)
