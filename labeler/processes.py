"""Spread work over processes, and hand the results on in the order of the tasks."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from itertools import chain
from typing import Any, Generic, Self, TypeVar

import pyarrow as pa

from labeler.errors import LabelerError
from labeler.machine import available_cpus, die_first, die_with, memory_in_use

_MOST = 16  # each reads 32 files at once
_BYTES_OF_A_PROCESS = 512 << 20  # 120 MB before its first file

S = TypeVar("S")
T = TypeVar("T")
R = TypeVar("R")
_shared: Any = None  # in a process of the pool: unpickled once


def affordable_processes(together: int = 0) -> int:
    """Return how many processes the CPUs and the memory that is not in use allow: 1 to 16.

    Args:
        together: bytes that all processes take together, whatever their number.
    """
    free = min((total - used for used, total in memory_in_use()), default=0)
    return max(1, min(_MOST, int(available_cpus()), (free - together) // _BYTES_OF_A_PROCESS))


class Processes(Generic[S]):
    """Owns processes that work for this one; leaving it by an exception ends them at once.

    Args:
        shared: what every task needs; each process gets it once.
        count: of processes. With one, this process does the work.
    """

    def __init__(self, shared: S, count: int) -> None:
        self._shared, self._count = shared, count
        self._pool: ProcessPoolExecutor | None = None
        if count > 1:
            context = multiprocessing.get_context("spawn")
            self._pool = ProcessPoolExecutor(count, context, initializer=_prepare, initargs=(shared, os.getpid()))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        if self._pool is None:
            return
        for process in list((self._pool._processes or {}).values()) if kind else ():
            process.terminate()
        self._pool.shutdown(cancel_futures=True)

    def map(self, work: Callable[[S, T], R], tasks: Iterable[T]) -> Iterator[R]:
        """Yield `work(shared, task)` for each task, in order; at most two tasks per process are under way.

        If the kernel ends a process for lack of memory, this one does the rest of the work.

        Args:
            work: a function of a module; it and all that it takes and returns can be pickled.

        Raises:
            LabelerError: if a task raised one.
        """
        under_way: deque[tuple[T, Future[R | TaskError]]] = deque()
        unsent: list[T] = []  # at most one: a pool that broke while the caller was busy does not take it
        remaining = iter(tasks)
        if self._pool is not None:
            try:
                for task in remaining:
                    unsent.append(task)
                    under_way.append((task, self._pool.submit(_do, work, task)))
                    unsent.clear()
                    if len(under_way) == 2 * self._count:
                        yield _result(under_way[0][1])
                        under_way.popleft()
                while under_way:
                    yield _result(under_way[0][1])
                    under_way.popleft()
            except BrokenProcessPool:
                self._pool.shutdown()
                self._pool = None
        sent = (task for task, _ in under_way)
        yield from (work(self._shared, task) for task in chain(sent, unsent, remaining))


@dataclass(frozen=True)
class TaskError:
    """An error that a task raised; its causes stay behind, because not all of them can be pickled."""

    error: LabelerError


def _result(future: Future[R | TaskError]) -> R:
    found = future.result()
    if isinstance(found, TaskError):
        raise found.error
    return found


def _prepare(shared: object, parent: int) -> None:
    global _shared
    _shared = shared
    die_with(parent)
    die_first()
    pa.set_cpu_count(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the process that asked ends these


def _do(work: Callable[[Any, T], R], task: T) -> R | TaskError:
    try:
        return work(_shared, task)
    except LabelerError as error:
        return TaskError(error)
