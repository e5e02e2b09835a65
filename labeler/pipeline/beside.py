"""What a session does beside its work: in one thread, which is told when the work is over."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def beside(call: Callable[..., None], *arguments: object, join_s: float = 0.0) -> Iterator[None]:
    """While inside, run `call(*arguments, stopped)`, which is to return soon after the event `stopped` is set.

    Args:
        join_s: how long to wait for that at the end.
    """
    stopped = threading.Event()
    thread = threading.Thread(target=call, args=(*arguments, stopped), daemon=True)
    thread.start()
    try:
        yield
    finally:
        stopped.set()
        thread.join(join_s)
