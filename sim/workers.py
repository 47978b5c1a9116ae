"""Jobs in several processes at once, the first error first."""

from __future__ import annotations

import multiprocessing
import signal
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from typing import Any

from flexcim.errors import FlexCiMError

__all__ = ["Job", "WorkerError", "Workers", "workers"]

Job = tuple[str, Callable[..., Any], tuple[Any, ...]]
"""What a job does in words, the function that does it in another process, and its arguments."""


class WorkerError(FlexCiMError):
    """A process that ended before its job."""


class Workers:
    """Processes that jobs are given to.

    Parameters
    ----------
    pool : ProcessPoolExecutor
        The processes.
    done : callable
        Told what a job did in words, when it is done.
    """

    def __init__(self, pool: ProcessPoolExecutor, done: Callable[[str], None]) -> None:
        self._pool = pool
        self._done = done

    def run(self, jobs: Sequence[Job]) -> list[Any]:
        """Carry out jobs, begun in their order; their results, in the same order.

        Raises
        ------
        WorkerError
            If a process ends before its job, for example because the memory is full.
        Exception
            The first that a job raises.
        """
        futures: dict[Future[Any], str] = {
            self._pool.submit(function, *arguments): text for text, function, arguments in jobs
        }
        for future in as_completed(futures):
            try:
                future.result()
            except BrokenProcessPool:
                raise WorkerError(
                    f"a process ended before its job ({futures[future]}), perhaps for want of memory"
                ) from None
            self._done(futures[future])
        return [future.result() for future in futures]


@contextmanager
def workers(count: int, done: Callable[[str], None]) -> Iterator[Workers]:
    """Have processes for as long as the context is open; if it ends with an exception, they end at once.

    Parameters
    ----------
    count : int
        How many.
    done : callable
        As for `Workers`.
    """
    # Not forked: torch and Matplotlib have threads, of which a fork would keep the locks.
    context = multiprocessing.get_context("spawn")
    # Ctrl-C reaches all processes of a terminal; the message about it is for this one.
    with ProcessPoolExecutor(count, context, signal.signal, (signal.SIGINT, signal.SIG_DFL)) as pool:
        try:
            yield Workers(pool, done)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            for process in multiprocessing.active_children():
                process.terminate()
            raise
