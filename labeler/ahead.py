"""Work done in threads ahead of its reader and handed on in order, with a bound on what waits in memory."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, NamedTuple, TypeVar

R = TypeVar("R")
IN_FLIGHT = 32  # requests; small objects are bound by latency, not by bandwidth
AHEAD_BYTES = 64 << 20  # fetched and not yet handed on


class Fetch(NamedTuple, Generic[R]):
    """`call` makes a result, in a thread, holding about `cost` bytes."""

    cost: int
    call: Callable[[], R]


def in_order(
    jobs: Iterable[Fetch[R] | R],
    *,
    in_flight: int = IN_FLIGHT,
    ahead_bytes: int = AHEAD_BYTES,
    held: Callable[[R], int] = lambda result: 0,
) -> Iterator[R]:
    """Yield the jobs' results in the order of the jobs; results that need no job pass through in their place.

    Args:
        held: bytes that wait in memory with a result that needs no job.
    """
    waiting: deque[tuple[int, R | Future[R]]] = deque()
    ahead = 0
    with ThreadPoolExecutor(in_flight, thread_name_prefix="fetch") as pool:
        try:
            for job in jobs:
                if not waiting and not isinstance(job, Fetch):
                    yield job
                    continue
                cost = job.cost if isinstance(job, Fetch) else held(job)
                while waiting and (len(waiting) >= in_flight or ahead + cost > ahead_bytes):
                    done_cost, done = waiting.popleft()
                    yield _result(done)
                    ahead -= done_cost
                waiting.append((cost, pool.submit(job.call) if isinstance(job, Fetch) else job))
                ahead += cost
            while waiting:
                yield _result(waiting.popleft()[1])
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _result(done: R | Future[R]) -> R:
    return done.result() if isinstance(done, Future) else done
