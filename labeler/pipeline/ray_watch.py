"""A watch on Ray's own processes: when they are gone, Ray ends the driver a minute later and prints nothing."""

from __future__ import annotations

import errno
import os
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import ray
from rich.console import Console

_EVERY_S = 1.0
_DEAD_AFTER_S = 3.0  # of refused connections to a process of this machine: nobody starts it again
_RAYS_PATIENCE_S = 60.0  # Ray's default for a control process that may be restarted elsewhere
_CONNECT_TIMEOUT_S = 5.0
_EARLIER_S = 5.0  # than Ray, whose exit leaves no time for a line


@dataclass(frozen=True)
class Watched:
    """A process that accepts connections as long as it lives.

    Attributes:
        patience_s: how long it may not, before it is gone.
    """

    name: str
    address: str
    patience_s: float


@contextmanager
def watching_ray(console: Console, *, started_here: bool) -> Iterator[None]:
    """While inside, end this process with one line and exit code 1 once Ray's control or node process is gone.

    An exception would not do: the main thread waits inside Ray's C++ code, which does not return then.
    """

    def end(lost: Watched) -> None:
        console.show_cursor()  # the display of the run has hidden it
        console.print(
            f"labeler: {lost.name} at {lost.address} is gone, so this session cannot continue; "
            "run the same command again to resume",
            markup=False,
            soft_wrap=True,
        )
        sys.stdout.flush()
        console.file.flush()
        os._exit(1)

    stopped = threading.Event()
    watcher = threading.Thread(target=watch, args=(_processes(started_here), end, stopped), daemon=True)
    watcher.start()
    try:
        yield
    finally:
        stopped.set()


def watch(processes: list[Watched], end: Callable[[Watched], None], stopped: threading.Event) -> None:
    """Call `end` with the first of these processes that accepts no connection for its time; return when stopped."""
    last_seen = dict.fromkeys(processes, time.monotonic())
    while not stopped.wait(_EVERY_S):
        for process in processes:
            asked = time.monotonic()
            if not _refuses(process.address):
                last_seen[process] = time.monotonic()
            elif asked - last_seen[process] > process.patience_s:
                end(process)
                return


def _refuses(address: str) -> bool:
    """Whether nothing accepts connections there. A failure of this process (too many open files) is not that."""
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_CONNECT_TIMEOUT_S).close()
    except (ConnectionError, TimeoutError):
        return True
    except OSError as error:
        return error.errno in (errno.EHOSTUNREACH, errno.ENETUNREACH, errno.EHOSTDOWN)
    return False


def _processes(started_here: bool) -> list[Watched]:
    if ray.util.client.ray.is_connected():
        return []  # they are behind a server that Ray Client knows alone
    context = ray.get_runtime_context()
    rays = float(os.environ.get("RAY_gcs_rpc_server_reconnect_timeout_s", _RAYS_PATIENCE_S))  # noqa: SIM112
    patience_s = _DEAD_AFTER_S if started_here else max(rays / 2, rays - _EARLIER_S)
    control = Watched("Ray's control process (GCS)", context.gcs_address, patience_s)
    node = next(node for node in ray.nodes() if node["NodeID"] == context.get_node_id())
    address = f"{node['NodeManagerAddress']}:{node['NodeManagerPort']}"
    return [control, Watched("Ray's process of this node (raylet)", address, _DEAD_AFTER_S)]
