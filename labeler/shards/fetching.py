"""Fetch many small objects at once and hand them on in order, with a bound on what waits in memory."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple

from labeler import storage
from labeler.shards.units import Item, Placed, too_large

IN_FLIGHT = 32  # GETs; small objects are bound by latency, not by bandwidth
AHEAD_BYTES = 64 << 20  # fetched and not yet handed on


class Fetch(NamedTuple):
    """`call` makes an image, in a thread, holding about `cost` bytes."""

    cost: int
    call: Callable[[], Placed]


def in_order(
    jobs: Iterable[Fetch | Placed], *, in_flight: int = IN_FLIGHT, ahead_bytes: int = AHEAD_BYTES
) -> Iterator[Placed]:
    """The jobs' images in the order of the jobs; images that need no job pass through in their place."""
    waiting: deque[tuple[int, Placed | Future[Placed]]] = deque()
    ahead = 0
    with ThreadPoolExecutor(in_flight, thread_name_prefix="fetch") as pool:
        try:
            for job in jobs:
                if isinstance(job, Placed) and not waiting:
                    yield job
                    continue
                cost = _held(job)
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


def _held(job: Fetch | Placed) -> int:
    """Bytes that wait in memory with it."""
    if isinstance(job, Fetch):
        return job.cost
    return 0 if job.item is None else len(job.item.data or b"")


def _result(done: Placed | Future[Placed]) -> Placed:
    return done.result() if isinstance(done, Future) else done


def fetch(item: Item, *, size: int | None, etag: str | None, max_bytes: int) -> Item:
    """`item` with the bytes of the object at its URI, or with the reason why there are none.

    Raises:
        InputChanged: the object has another size or ETag than planned.
        StorageError: storage does not answer, after retries: a reason to try the shard again, not to give up the image.
    """
    try:
        with storage.open_stream(item.uri, size=size, etag=etag) as stream:
            length = stream.size
            if length > max_bytes:
                return _with(item, length, None, too_large(length, max_bytes))
            return _with(item, length, stream.read(length), None)
    except storage.Unreadable as error:
        return _with(item, None, None, error.reason)


def _with(item: Item, length: int | None, data: bytes | None, error: str | None) -> Item:
    offset = None if length is None else 0
    return Item(item.key, item.index, item.uri, offset, length, data, error, item.kept)
