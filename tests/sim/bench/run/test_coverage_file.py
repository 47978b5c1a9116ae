"""Files of coverage: what several runs of the bench have covered adds up, if it is of the same design."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from flexcim.config.macro import MacroConfig
from flexcim_sim.bench.coverage.counts import Coverage, CoverageError
from flexcim_sim.bench.run.coverage_file import CoverageRecord, merge_records, read_records, write_records
from flexcim_sim.bench.run.runner import Outcome
from flexcim_sim.bench.run.verify import Verification

CONFIG = MacroConfig.from_mapping({"rows": 2, "columns": 2, "patterns": ["1:1"], "result_port": 1})
FIRST = ("1:1", "1", "1", "1", "none", "0", "only")
SECOND = ("1:1", "2", "1", "1", "none", "1", "only")


def record(tmp_path, covered, *, seed=1, simulator="icarus", design="d0"):
    outcomes = (Outcome("programs", True, 1.0, 4, 9, "", covered), Outcome("refusals", False, 1.0, 0, 0, "wrong"))
    return CoverageRecord.of(
        Verification(
            label="mine",
            config=CONFIG,
            init=True,
            simulator=simulator,
            seed=seed,
            outcomes=outcomes,
            build_seconds=1.0,
            folder=tmp_path,
            waves=None,
            design=design,
        )
    )


def test_records_are_read_as_they_were_written(tmp_path):
    path = tmp_path / "coverage.json"
    written = record(tmp_path, {FIRST: 3})
    write_records(path, [written])
    (entry,) = json.loads(path.read_text())["records"]
    assert (entry["legal_crosses"], entry["hit"]) == (written.coverage.legal, 1)
    assert [*FIRST, 3] in entry["coverage"]["crosses"]
    (again,) = read_records(path)
    assert again.coverage.runs == written.coverage.runs
    assert MacroConfig.from_mapping(again.parameters) == CONFIG
    assert (again.label, again.simulator, again.design, again.seeds) == ("mine", "icarus", "d0", (1,))


def test_a_file_that_is_not_there_holds_nothing(tmp_path):
    assert read_records(tmp_path / "nowhere.json") == []


def test_the_same_design_in_the_same_simulator_adds_up(tmp_path):
    earlier, new = record(tmp_path, {FIRST: 3}), record(tmp_path, {FIRST: 1, SECOND: 2}, seed=2)
    (merged,) = merge_records([earlier, new])
    assert merged.coverage.seen == {FIRST: 4, SECOND: 2}
    assert merged.seeds == (1, 2)
    assert earlier.coverage.seen == {FIRST: 3}, "left as it was"


def test_records_of_other_crosses_are_not_added(tmp_path):
    good = record(tmp_path, {FIRST: 3})
    runs = dict(good.coverage.runs)
    del runs[FIRST]
    bad = replace(good, coverage=Coverage(good.coverage.axes, runs))
    with pytest.raises(CoverageError, match=r"mine, icarus: coverage of 179 legal crosses of .* cannot be added to"):
        merge_records([bad, good])


@pytest.mark.parametrize("other", [{"simulator": "verilator"}, {"design": "d1"}])
def test_other_designs_and_simulators_stay_apart(other, tmp_path):
    records = [record(tmp_path, {FIRST: 3}), record(tmp_path, {SECOND: 2}, **other)]
    assert [it.coverage.seen for it in merge_records(records)] == [{FIRST: 3}, {SECOND: 2}]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "coverage.json: is no JSON"),
        ("[]", "coverage.json: is no file of coverage with schema_version 1"),
        ('{"schema_version": 9}', "coverage.json: is no file of coverage with schema_version 1"),
        ('{"schema_version": 1, "records": [{}]}', "coverage.json: a record lacks what belongs into it"),
    ],
)
def test_a_file_of_something_else_is_refused(text, message, tmp_path):
    path = tmp_path / "coverage.json"
    path.write_text(text)
    with pytest.raises(CoverageError, match=message):
        read_records(path)


def test_a_wrong_cross_in_a_file_is_named(tmp_path):
    path = tmp_path / "coverage.json"
    write_records(path, [record(tmp_path, {FIRST: 3})])
    document = json.loads(path.read_text())
    document["records"][0]["coverage"]["crosses"][0][0] = "7:9"
    path.write_text(json.dumps(document))
    with pytest.raises(CoverageError, match=r"coverage.json: has the cross 7:9, .*, which is not one label of each"):
        read_records(path)


@pytest.mark.parametrize("count", [-3, 2.5, 2.0, True, None, "4", [1]])
def test_a_count_that_is_none_is_refused_with_file_cross_and_value(count, tmp_path):
    path = tmp_path / "coverage.json"
    write_records(path, [record(tmp_path, {FIRST: 3})])
    document = json.loads(path.read_text())
    crosses = document["records"][0]["coverage"]["crosses"]
    next(cross for cross in crosses if tuple(cross[:-1]) == FIRST)[-1] = count
    path.write_text(json.dumps(document))
    with pytest.raises(CoverageError) as error:
        read_records(path)
    assert str(error.value) == (
        f"{path}: has {count!r} runs of the cross {', '.join(FIRST)}, but a number of runs is an integer, 0 or more"
    )


def test_a_folder_is_no_file_of_coverage(tmp_path):
    with pytest.raises(CoverageError, match=r"cannot be read \(Is a directory\)"):
        read_records(tmp_path)
