"""Jobs in several processes at once, the first error first, and nothing left behind."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import traceback
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from types import FrameType
from typing import Any

from flexcim.errors import FlexCiMError

__all__ = ["Job", "WorkerError", "Workers", "workers"]

Job = tuple[str, Callable[..., Any], tuple[Any, ...]]
"""What a job does in words, the function that does it in another process, and its arguments."""

_PATIENCE_SECONDS = 3.0
"""How long a process may take to end when it is told to."""


class WorkerError(FlexCiMError):
    """A process that ended before its job."""


class _RemoteTracebackError(Exception):
    """Where an exception came from in another process; its cause here, so that it is shown with it."""


class Workers:
    """Processes that jobs are given to.

    Each has a pipe of its own and leads a process group of its own, in which whatever it starts is as well. So nothing
    that one of them leaves half-said can block the others or this process, and all of it can be ended at once.

    `concurrent.futures` can do neither: its processes share a queue, and waiting for one that was terminated while it
    wrote into it takes for ever.

    Parameters
    ----------
    count : int
        How many.
    done : callable
        Told what a job did in words, when it is done.
    """

    def __init__(self, count: int, done: Callable[[str], None]) -> None:
        self._done = done
        self._processes: dict[Connection, BaseProcess] = {}
        # Not forked: torch and Matplotlib have threads, of which a fork would keep the locks.
        context = multiprocessing.get_context("spawn")
        for _ in range(count):
            ours, theirs = context.Pipe()
            process = context.Process(target=_work, args=(theirs,), daemon=True)
            process.start()
            theirs.close()  # with the process's own end closed, its end is heard here
            self._processes[ours] = process

    def run(self, jobs: Sequence[Job]) -> list[Any]:
        """Carry out jobs, begun in their order; their results, in the same order.

        Raises
        ------
        WorkerError
            If a process ends before its job, for example because the memory is full.
        Exception
            The first that a job raises.
        """
        results: list[Any] = [None] * len(jobs)
        waiting = deque(enumerate(jobs))
        idle, busy = list(self._processes), dict[Connection, int]()
        while waiting or busy:
            while waiting and idle:
                index, (_, function, arguments) = waiting.popleft()
                connection = idle.pop()
                busy[connection] = index
                # A process that has ended is noticed when its answer is read.
                with contextlib.suppress(BrokenPipeError):
                    connection.send((function, arguments))
            for ready in wait(list(busy)):
                assert isinstance(ready, Connection), "only connections are waited for"
                index = busy.pop(ready)
                results[index] = _answer(ready, jobs[index][0])
                self._done(jobs[index][0])
                idle.append(ready)
        return results

    def end(self, *, at_once: bool) -> None:
        """End all processes: when they have done what they are at, or at once with all that they have started."""
        for connection in self._processes:
            connection.close()  # a process that waits for a job ends with this
        if at_once:
            for process in self._processes.values():
                _signal_group(process, signal.SIGTERM)
        for process in self._processes.values():
            process.join(_PATIENCE_SECONDS if at_once else None)
            if process.is_alive():
                _signal_group(process, signal.SIGKILL)
                process.join()


def _answer(connection: Connection, text: str) -> Any:
    """What a job returned; what it raised is raised here."""
    try:
        worked, answer, trace = connection.recv()
    except (EOFError, ConnectionResetError):
        raise WorkerError(f"a process ended before its job ({text}), perhaps for want of memory") from None
    if not worked:
        raise answer from _RemoteTracebackError(f"\n{trace}")
    return answer


def _work(connection: Connection) -> None:
    """Carry out jobs until the other end is closed."""
    # Ctrl-C in a terminal reaches its foreground group alone: what to do about it is decided there.
    os.setpgid(0, 0)
    while True:
        try:
            function, arguments = connection.recv()
        except EOFError:
            return
        try:
            message = True, function(*arguments), ""
        except Exception as error:
            message = False, error, traceback.format_exc()
        try:
            connection.send(message)
        except BrokenPipeError:
            return


def _signal_group(process: BaseProcess, number: int) -> None:
    """Send a signal to a process and all that it has started."""
    assert process.pid is not None, "the process was started"
    try:
        os.killpg(process.pid, number)
    except ProcessLookupError:
        # It has ended, or has not come to lead its group yet and has started nothing.
        with contextlib.suppress(ProcessLookupError):
            os.kill(process.pid, number)


@contextmanager
def workers(count: int, done: Callable[[str], None]) -> Iterator[Workers]:
    """Have processes for as long as the context is open; if it ends with an exception, they end at once.

    A SIGTERM to this process, too, ends them: it becomes a SystemExit with the exit code 143.

    Parameters
    ----------
    count : int
        How many.
    done : callable
        As for `Workers`.
    """
    before = signal.signal(signal.SIGTERM, _exit)
    pool = Workers(count, done)
    try:
        yield pool
    except BaseException:
        pool.end(at_once=True)
        raise
    else:
        pool.end(at_once=False)
    finally:
        signal.signal(signal.SIGTERM, before)


def _exit(number: int, frame: FrameType | None) -> None:
    raise SystemExit(128 + number)
