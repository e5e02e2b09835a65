"""A watch on Ray's own processes: when they are gone, Ray ends the driver a minute later and prints nothing."""

from __future__ import annotations

import errno
import os
import socket
import sys
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Literal

import ray
from rich.console import Console

from labeler.pipeline.beside import beside

_EVERY_S = 0.25  # Ray may end the driver half a second after its raylet
_CONNECT_TIMEOUT_S = 5.0
_SILENT_S = 50.0  # a process that is stopped, or behind a broken network, may come back
_RAYS_PATIENCE_S = 60.0  # Ray's default for a control process that may be restarted elsewhere
_EARLIER_S = 5.0  # than Ray, whose exit leaves no time for a line


@dataclass(frozen=True)
class Watched:
    """A process that accepts connections as long as it lives.

    Attributes:
        patience_s: how long it may refuse them before it is gone.
    """

    name: str
    address: str
    patience_s: float


def watching_ray(console: Console, *, started_here: bool) -> AbstractContextManager[None]:
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

    return beside(watch, _processes(started_here), end)


def watch(processes: list[Watched], end: Callable[[Watched], None], stopped: threading.Event) -> None:
    """Call `end` with the first of these processes that is gone; return then, or when stopped."""
    last_seen = dict.fromkeys(processes, time.monotonic())
    while not stopped.wait(_EVERY_S):
        for process in processes:
            asked, failure = time.monotonic(), _failure(process.address)
            patience_s = process.patience_s if failure == "refused" else max(process.patience_s, _SILENT_S)
            if not failure:
                last_seen[process] = time.monotonic()
            elif asked - last_seen[process] > patience_s:
                end(process)
                return


def _failure(address: str) -> Literal["", "refused", "silent"]:
    """Return how a connection fails; empty where it does not, or where this process is to blame (too
    many open files).
    """
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_CONNECT_TIMEOUT_S).close()
    except ConnectionError:
        return "refused"
    except OSError as error:
        unanswered = (errno.ETIMEDOUT, errno.EHOSTUNREACH, errno.ENETUNREACH, errno.EHOSTDOWN)
        return "silent" if isinstance(error, TimeoutError) or error.errno in unanswered else ""
    return ""


def _processes(started_here: bool) -> list[Watched]:
    if ray.util.client.ray.is_connected():
        return []  # they are behind a server that Ray Client knows alone
    context = ray.get_runtime_context()
    rays = float(os.environ.get("RAY_gcs_rpc_server_reconnect_timeout_s", _RAYS_PATIENCE_S))  # noqa: SIM112
    patience_s = 0.0 if started_here else max(rays / 2, rays - _EARLIER_S)
    control = Watched("Ray's control process (GCS)", context.gcs_address, patience_s)
    node = next(node for node in ray.nodes() if node["NodeID"] == context.get_node_id())
    address = f"{node['NodeManagerAddress']}:{node['NodeManagerPort']}"
    return [control, Watched("Ray's process of this node (raylet)", address, 0.0)]
