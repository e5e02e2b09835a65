"""Trouble with storage that a person can end, such as expired credentials: the driver hears of it within seconds."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import ray

from labeler import storage
from labeler.pipeline.beside import beside

_EVERY_S = 1.0  # how often the driver asks the ledger
_ANSWER_S = 2.0  # how long it waits for the answer


def tell(ledger: Any) -> None:
    """Have the ledger told of what this process meets from now on; with None, nobody."""
    storage.on_trouble(None if ledger is None else ledger.trouble.remote)  # the answer is not waited for


@contextmanager
def hearing(ledger: Any, on_trouble: Callable[[str], None]) -> Iterator[None]:
    """While inside, call `on_trouble` with what readers and workers tell the ledger, and with the driver's own."""
    storage.on_trouble(on_trouble)
    try:
        # Waited for: a call to Ray after its shutdown would start another Ray.
        with beside(_listen, ledger, on_trouble, join_s=2 * _ANSWER_S):
            yield
    finally:
        storage.on_trouble(None)


def _listen(ledger: Any, on_trouble: Callable[[str], None], stopped: threading.Event) -> None:
    while not stopped.wait(_EVERY_S):
        with suppress(Exception):  # Ray is shut down, or the ledger starts again on the driver's node
            for what in ray.get(ledger.take_troubles.remote(), timeout=_ANSWER_S):
                on_trouble(what)
