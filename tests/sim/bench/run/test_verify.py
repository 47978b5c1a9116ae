"""``flexcim verify``: what it takes, what it writes, and its exit codes."""

from __future__ import annotations

import hashlib
import json
import re
from contextlib import contextmanager
from pathlib import Path

import pytest

from flexcim.cli import main
from flexcim.config.macro import MacroConfig
from flexcim.errors import FlexCiMError
from flexcim_hw.verilog.macro import generate
from flexcim_sim.bench.coverage.counts import Coverage
from flexcim_sim.bench.run.coverage_file import CoverageRecord, read_records, write_records
from flexcim_sim.bench.run.runner import Outcome
from flexcim_sim.bench.run.verify import Verification

pytestmark = pytest.mark.simulator

TINY = {
    "sub_macros": 1,
    "rows": 2,
    "columns": 1,
    "patterns": ["1:1", "1:2"],
    "activation_port": 2,
    "result_port": 1,
    "accumulator_depth": 2,
}


@pytest.fixture
def tiny(tmp_path) -> Path:
    """A configuration file."""
    path = tmp_path / "tiny.toml"
    MacroConfig.from_mapping(TINY).to_toml(path)
    return path


def test_a_configuration_is_verified(tiny, tmp_path, capsys):
    output = tmp_path / "out"
    arguments = ["--config", str(tiny), "--simulator", "icarus", "--seed", "5", "--no-init", "-o", str(output)]
    assert main(["verify", *arguments]) == 0
    out, err = capsys.readouterr()
    assert out.startswith("seed 5\n")
    assert re.search(r"(\d\d) of \1", out)
    assert "done: tiny, icarus" in err
    (entry,) = json.loads((output / "results.json").read_text())["verifications"]
    assert (entry["configuration"], entry["simulator"], entry["initial_values"]) == ("tiny", "icarus", False)
    assert Path(entry["log"]).is_file()
    assert (output / "results.xml").is_file()


def test_coverage_is_printed_and_adds_up_in_a_file(tiny, tmp_path, capsys):
    """The file holds a run on the same Verilog that has seen all of bank 1, which one call does not."""
    config, path = MacroConfig.from_toml(tiny), tmp_path / "coverage.json"
    earlier = Coverage.of(config)
    of_bank_1 = [cross for cross in earlier.missing if dict(zip(earlier.axes, cross, strict=True))["bank"] == "1"]
    for cross in of_bank_1:
        earlier.add(cross)
    record = CoverageRecord(
        label="before",
        parameters=config.to_mapping(),
        simulator="icarus",
        design=hashlib.sha256(generate(config).text.encode()).hexdigest(),
        seeds=(4,),
        coverage=earlier,
    )
    write_records(path, [record])
    arguments = ["--config", str(tiny), "--simulator", "icarus", "--seed", "5", "--coverage", str(path)]
    assert main(["verify", *arguments, "-o", str(tmp_path / "out")]) == 0
    out, _ = capsys.readouterr()
    (line,) = re.findall(r"^coverage of tiny, icarus: (\d+) of 120 legal crosses hit .* seeds 4, 5$", out, re.MULTILINE)
    assert re.search(r"^  not hit: .* \(\d+ crosses\)$", out, re.MULTILINE)
    assert re.search(r"bank +│ 0 ", out)
    (entry,) = json.loads((tmp_path / "out" / "results.json").read_text())["verifications"]
    alone = entry["coverage"]["hit"]
    assert entry["coverage"]["legal_crosses"] == 2 * len(of_bank_1) == 120
    (record,) = read_records(path)
    assert record.coverage.hit == int(line)
    assert max(alone, 60) < int(line) < alone + 60, "some of bank 1 is in both, nothing twice"


@pytest.mark.usefixtures("idle")
def test_a_file_that_holds_no_coverage_is_found_before_the_work(tiny, tmp_path, capsys):
    path = tmp_path / "coverage.json"
    path.write_text("{}")
    assert main(["verify", "--config", str(tiny), "--coverage", str(path)]) == 2
    assert f"{path}: is no file of coverage with schema_version 1\n" in capsys.readouterr().err


@pytest.mark.usefixtures("idle")
def test_a_file_of_coverage_that_cannot_be_written_is_found_before_the_work(tiny, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    path = tmp_path / "file" / "coverage.json"
    assert main(["verify", "--config", str(tiny), "--coverage", str(path), "-o", str(tmp_path)]) == 2
    assert "(Not a directory)" in capsys.readouterr().err


@pytest.fixture
def stubborn(monkeypatch, tmp_path):
    """Whatever is to be verified fails."""

    class Pool:
        def run(self, jobs):
            return [
                Verification(
                    label=label,
                    config=config,
                    init=True,
                    simulator=simulator,
                    seed=1,
                    outcomes=(Outcome("programs", False, 0.1, 0, 0, "cycle 3: output 1 is 2, but must be 3"),),
                    build_seconds=0.0,
                    folder=folder,
                    waves=folder / "dump.vcd",
                )
                for _, _, (label, config, simulator, folder) in jobs
            ]

    @contextmanager
    def workers(count, done):
        yield Pool()

    monkeypatch.setattr("flexcim_sim.workers.workers", workers)


@pytest.mark.usefixtures("stubborn")
def test_a_failure_is_told_and_gives_exit_code_1(tmp_path, capsys):
    assert main(["verify", "--preset", "board", "--simulator", "both", "-o", str(tmp_path)]) == 1
    out, err = capsys.readouterr()
    assert "0 of 1" in out
    assert f"waves: {tmp_path / 'board-icarus' / 'dump.vcd'}" in out
    for simulator in ("verilator", "icarus"):
        assert f"flexcim: board, {simulator}, programs: cycle 3: output 1 is 2, but must be 3\n" in err


@pytest.mark.parametrize(("option", "wanted"), [([], False), (["--full-coverage"], True)])
def test_full_coverage_is_played_for_those_who_ask(option, wanted, tmp_path, monkeypatch):
    asked: list[bool] = []

    @contextmanager
    def workers(count, done):
        yield Pool()

    class Pool:
        def run(self, jobs):
            asked.extend(function.keywords["full_coverage"] for _, function, _ in jobs)
            raise FlexCiMError("enough is known")

    monkeypatch.setattr("flexcim_sim.workers.workers", workers)
    assert main(["verify", "--preset", "board", *option, "-o", str(tmp_path)]) == 2
    assert asked == [wanted]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--preset", "bord"], "unknown preset 'bord'; known are flexcim"),
        (["--config", "nowhere.toml"], "nowhere.toml: cannot be read (No such file or directory)"),
    ],
)
def test_bad_input_gives_exit_code_2(arguments, message, capsys):
    assert main(["verify", *arguments]) == 2
    assert message in capsys.readouterr().err


def test_a_missing_simulator_gives_exit_code_2(monkeypatch, capsys):
    monkeypatch.setenv("PATH", "/nowhere")
    assert main(["verify", "--simulator", "icarus"]) == 2
    assert "icarus needs the program 'iverilog'" in capsys.readouterr().err


@pytest.mark.usefixtures("stubborn")
def test_a_folder_that_cannot_be_written_gives_exit_code_2(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert main(["verify", "-o", str(tmp_path / "file" / "out")]) == 2
    assert "cannot be written (Not a directory)" in capsys.readouterr().err


@pytest.fixture
def idle(monkeypatch):
    """Nothing may be simulated."""

    def workers(count, done):
        raise AssertionError("the work has begun")

    monkeypatch.setattr("flexcim_sim.workers.workers", workers)


@pytest.mark.usefixtures("idle")
@pytest.mark.parametrize("name", ["results.json", "results.xml"])
def test_a_folder_in_the_place_of_a_result_is_found_before_the_work(name, tmp_path, capsys):
    (tmp_path / name).mkdir()
    assert main(["verify", "-o", str(tmp_path)]) == 2
    assert capsys.readouterr().err == f"flexcim: {tmp_path / name}: cannot be written (Is a directory)\n"


@pytest.mark.usefixtures("idle")
def test_a_folder_that_may_not_be_written_is_found_before_the_work(tmp_path, capsys, monkeypatch):
    def refuse(dir):
        raise PermissionError(13, "Permission denied", str(dir))

    monkeypatch.setattr("tempfile.TemporaryFile", refuse)
    assert main(["verify", "-o", str(tmp_path)]) == 2
    assert capsys.readouterr().err == f"flexcim: {tmp_path}: cannot be written (Permission denied)\n"


def test_an_output_without_a_name_is_refused(capsys):
    assert main(["verify", "-o", ""]) == 2
    err = capsys.readouterr().err
    assert err == (
        "flexcim: invalid value for '--output' / '-o': a folder must have a name, not ''; see 'flexcim verify --help'\n"
    )
