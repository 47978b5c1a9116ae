"""Steps: they are counted, whoever listens."""

from __future__ import annotations

from flexcim_flow.common.steps import Steps


def test_steps_are_told_with_those_before_them():
    told: list[tuple[str, int, int]] = []
    steps = Steps(lambda *step: told.append(step))
    steps.begin("first")
    steps.total = 5
    steps.begin("second")
    steps.skip(2)
    steps.begin("fifth")
    assert told == [("first", 0, 1), ("second", 1, 5), ("fifth", 4, 5)]


def test_nobody_needs_to_listen():
    steps = Steps(None)
    steps.begin("first")
    assert steps.total == 1
