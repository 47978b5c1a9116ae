"""The C example, as the tutorial runs it, on simulated RTL."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from dataclasses import replace

import pytest

from examples.c.run import HERE, ExampleError, build_example, write_job
from flexcim.config.accelerator import accelerator_preset

pytestmark = pytest.mark.simulator

ROOT = HERE.parent.parent
CONFIG = accelerator_preset("accelerator-board")


def run(program):
    return subprocess.run([program], capture_output=True, text=True, check=False, timeout=60)


def test_the_documented_command_runs_the_example(tmp_path):
    command = [sys.executable, "examples/c/run.py", "-o", str(tmp_path)]
    tutorial = (ROOT / "docs" / "tutorial" / "drive-it-from-c.md").read_text(encoding="utf-8")
    assert f"\npython {command[1]} " in tutorial
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.splitlines() == [
        "11 x 133 weights times 5 vectors: all sums are right",
        "a load of a macro that is not there was refused",
        "after the reset all sums are right again",
    ]
    assert ran.stderr.splitlines()[1:] == ["the accelerator stopped: macros"]


def test_a_wrong_sum_would_be_seen(tmp_path):
    job = tmp_path / "job.h"
    write_job(CONFIG, 1, job)
    text = job.read_text()
    weight = re.search(r"matrix\[OUTPUTS\]\[INPUTS\] = \{\{(-?\d+),", text)
    assert weight is not None
    job.write_text(text[: weight.start(1)] + str(int(weight[1]) ^ 1) + text[weight.end(1) :])
    ran = run(build_example(CONFIG, tmp_path))
    assert ran.returncode == 1
    assert re.fullmatch(r"output 0 of vector \d is -?\d+, but must be -?\d+\n", ran.stdout)


@pytest.mark.parametrize(
    ("size", "wrong", "message"),
    [
        ("sizeof weights,", "sizeof weights - 2,", "a buffer that is sent is no whole number of words"),
        ("RESULT_BYTES};", "RESULT_BYTES - 2};", "the buffer for the results is too small"),
        ("RESULT_BYTES};", "RESULT_BYTES + 4};", "no word has moved for 100000 cycles"),
    ],
)
def test_the_simulated_platform_tells_of_buffers_of_the_wrong_size(size, wrong, message, tmp_path):
    job = tmp_path / "job.h"
    write_job(CONFIG, 1, job)
    job.write_text(job.read_text().replace(size, wrong))
    ran = run(build_example(CONFIG, tmp_path))
    assert (ran.returncode, ran.stderr) == (2, f"simulated platform: {message}\n")


def test_what_the_example_cannot_run_on_is_told(tmp_path):
    with pytest.raises(ExampleError, match="needs register_bus = 'axi4-lite', not 'wishbone'"):
        build_example(replace(CONFIG, register_bus="wishbone"), tmp_path)
    with pytest.raises(ExampleError, match="program_depth must hold the example's program at once, not 2"):
        write_job(replace(CONFIG, program_depth=2), 0, tmp_path / "job.h")
    command = [sys.executable, "examples/c/run.py", "--preset", "none", "-o", str(tmp_path)]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert ran.returncode == 2
    assert ran.stderr.startswith("run.py: unknown preset 'none'; known are accelerator, ")


def test_a_compiler_that_is_missing_is_told(tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(ExampleError, match=r"^gcc, which compiles the example, is not installed$"):
        build_example(CONFIG, tmp_path)


def test_an_output_that_cannot_be_written_is_told(tmp_path):
    (tmp_path / "file").write_text("in the way")
    command = [sys.executable, "examples/c/run.py", "-o", str(tmp_path / "file")]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (ran.returncode, ran.stderr) == (2, f"run.py: {tmp_path / 'file'}: cannot be written (File exists)\n")
