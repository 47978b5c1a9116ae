"""Worker processes: results in order, errors at once, and nothing that outlives an end."""

from __future__ import annotations

import operator
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from flexcim.config.errors import ConfigError
from flexcim.config.macro import preset
from flexcim_sim.workers import Job, WorkerError, workers


def test_results_come_in_order_and_errors_are_passed_on():
    done: list[str] = []
    with workers(2, done.append) as pool:
        jobs = [(f"job {index}", operator.mul, (index, index)) for index in range(7)]
        assert pool.run(jobs) == [index * index for index in range(7)]
        assert pool.run(jobs[:1]) == [0]
    assert sorted(done) == sorted(["job 0", *(f"job {index}" for index in range(7))])
    with pytest.raises(ConfigError, match="unknown preset 'none'") as raised:
        with workers(1, done.append) as pool:
            pool.run([("third", preset, ("none",))])
    assert len(done) == 8
    assert "in preset" in str(raised.value.__cause__), "where it was raised"


@pytest.mark.parametrize("count", [1, 2])
def test_a_worker_that_ends_is_an_error(count):
    with pytest.raises(WorkerError, match=r"^a process ended before its job \(the job\), perhaps for want of memory$"):
        with workers(count, lambda text: None) as pool:
            pool.run([("the job", os._exit, (3,)), ("another", operator.neg, (3,))])


def answer_without_end(size: int) -> bytes:
    """More than a pipe holds: whoever answers is stopped while it writes."""
    return bytes(size)


def test_an_error_does_not_wait_for_a_worker_that_is_answering():
    begun = time.monotonic()
    jobs: list[Job] = [
        ("large", answer_without_end, (1 << 28,)),
        ("wrong", preset, ("none",)),
        ("sleep", time.sleep, (60,)),
    ]
    with pytest.raises(ConfigError):
        with workers(2, lambda text: None) as pool:
            pool.run(jobs)
    assert time.monotonic() - begun < 40


PROGRAM = """
import subprocess, sys
from flexcim_sim.workers import workers

def start(path):
    # Something that a job starts, as a simulator or a compiler is.
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(300)"])
    with open(path, "w") as file:
        file.write(str(child.pid))
    child.wait()

if __name__ == "__main__":
    with workers(1, print) as pool:
        pool.run([("a job", start, (sys.argv[1],))])
"""


def is_alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


def wait_until(condition, seconds=30.0):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.05)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_to_the_main_process_ends_all_that_was_started(number, tmp_path):
    program, note = tmp_path / "program.py", tmp_path / "pid"
    program.write_text(textwrap.dedent(PROGRAM))
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[2])}
    process = subprocess.Popen([sys.executable, program, note], env=environment, stderr=subprocess.DEVNULL)
    wait_until(lambda: note.exists() and note.read_text())
    child = int(note.read_text())
    assert is_alive(child)
    process.send_signal(number)
    assert process.wait(30) == (143 if number == signal.SIGTERM else -signal.SIGINT)
    wait_until(lambda: not is_alive(child), 5.0)
