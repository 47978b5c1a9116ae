"""Coverage from the bench's simulations: what the stimuli lack is told, and the programs that aim at it hit it."""

from __future__ import annotations

import functools

import pytest

from flexcim.config.macro import MacroConfig
from flexcim_hw.verilog.macro import generate
from flexcim_sim.bench.coverage.counts import Coverage
from flexcim_sim.bench.run.runner import run_tests
from flexcim_sim.bench.run.verify import MACRO_TESTS, verify_macro
from flexcim_sim.build.simulators import SIMULATORS, build

pytestmark = pytest.mark.simulator

# Two modes, of which one takes two beats a vector: few crosses, but each kind of them.
CONFIG = MacroConfig.from_mapping(
    {"sub_macros": 2, "rows": 2, "columns": 2, "patterns": ["1:1"], "activation_port": 2, "result_port": 1}
    | {"accumulator_depth": 4, "bits_per_cycle": 4}
)


@functools.cache
def design():
    return generate(CONFIG)


def covered(outcomes):
    """The coverage of tests, by axis."""
    coverage = Coverage.of(CONFIG)
    for outcome in outcomes:
        assert outcome.passed, outcome.message
        for cross, runs in outcome.covered.items():
            coverage.add(cross, runs)
    return coverage


def labels(crosses):
    names = tuple(Coverage.of(CONFIG).axes)
    return [dict(zip(names, cross, strict=True)) for cross in crosses]


def test_what_a_test_does_not_play_is_not_covered(tmp_path):
    """One K tile, nothing stalls, each bank once: so much is hit, and all else is told to be missing."""
    built = build(design(), "icarus")
    coverage = covered(run_tests(built, CONFIG, MACRO_TESTS, tmp_path, seed=1, tests=("every_mode",)))
    seen = labels(coverage.seen)
    assert {it["groups"] for it in seen} == {"1", "2"}
    assert {(it["K tiles"], it["stall"], it["position"]) for it in seen} == {("1", "none", "only")}
    holes = " | ".join(map(str, coverage.holes(20)))
    for lacking in ("K tiles 2", "K tiles 3+", "stall weights", "stall several", "groups 1, bank 1"):
        assert lacking in holes
    assert coverage.hit == 2
    assert coverage.hit + len(coverage.missing) == coverage.legal == 2 * 2 * 6 * 5


def test_runs_are_counted_as_often_as_they_were_carried_out(tmp_path):
    built = build(design(), "icarus")
    (outcome,) = run_tests(built, CONFIG, MACRO_TESTS, tmp_path, seed=1, tests=("accumulation",))
    assert sum(outcome.covered.values()) % 2 == 0
    assert {(it["K tiles"], it["position"]) for it in labels(outcome.covered)} == {("2", "first"), ("2", "last")}


@pytest.mark.parametrize("simulator", SIMULATORS)
@pytest.mark.slow
def test_programs_that_aim_at_what_is_missing_hit_it(simulator, tmp_path):
    verification = verify_macro("full", CONFIG, simulator, tmp_path, seed=2, full_coverage=True, verilog=design())
    assert not verification.failed, [outcome.message for outcome in verification.failed]
    assert verification.outcomes[-1].name == "full_coverage"
    assert verification.coverage.missing == []
    assert any(outcome.covered for outcome in verification.outcomes[:-1])
