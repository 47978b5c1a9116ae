"""The examples in the rooms' docstrings print what they say."""

from __future__ import annotations

import doctest
import importlib

import pytest


@pytest.mark.parametrize("room", ["config", "macro", "packed", "accelerator", "compiler"])
def test_a_rooms_example_is_right(room):
    module = importlib.import_module(f"flexcim.{room}")
    found = doctest.testmod(module, optionflags=doctest.FAIL_FAST)
    assert found.attempted > 0
    assert found.failed == 0
