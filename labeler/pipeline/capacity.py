"""Capacity for the first worker: on a cluster that may grow it is waited for, after a message."""

from __future__ import annotations

import threading
import time
from contextlib import AbstractContextManager, suppress
from datetime import datetime, timedelta
from typing import Any

import ray
from rich.console import Console

from labeler.config import RayConfig
from labeler.errors import Refused
from labeler.pipeline.beside import beside
from labeler.pipeline.cluster import (
    Workers,
    describe_nodes,
    has_room,
    last_line,
    require_capacity,
    size_workers,
)
from labeler.pipeline.nodes import Placement, alive_nodes, launches_nodes

_LOOK_S = 5.0  # how often the nodes are looked at while labeling
_SILENT_S = 3.0  # a wait this short is not worth a line


class CapacityWait:
    """The time that a job has for waiting before it labels: `ray.start_timeout_s` in all.

    Args:
        console: where a wait is announced.
    """

    def __init__(self, timeout_s: float, console: Console) -> None:
        self.timeout_s = timeout_s
        self._console = console
        self._deadline = time.monotonic() + timeout_s
        self._announced = False

    @property
    def left_s(self) -> float:
        return max(0.0, self._deadline - time.monotonic())

    def announce(self, what: str) -> None:
        """Print what is waited for, and until when."""
        self._announced = True
        until = datetime.now() + timedelta(seconds=self.left_s)
        self._console.print(
            f"waiting until {until:%Y-%m-%d %H:%M:%S} (ray.start_timeout_s={self.timeout_s:g}) for {what}",
            markup=False,
            soft_wrap=True,
        )

    def wait(self, task: Any, what: str) -> Any:
        """Return the result of a task that Ray runs once there is room for it.

        Raises:
            Refused: if the time is over, or the task failed.
            ray.exceptions.TaskUnschedulableError: if the task is pinned to a node that is gone.
        """
        if not self._announced and not ray.wait([task], timeout=min(_SILENT_S, self.left_s))[0]:
            self.announce(f"{what}; the cluster has {describe_nodes(alive_nodes())}")
        try:
            return ray.get(task, timeout=self.left_s)
        except ray.exceptions.GetTimeoutError:
            with suppress(ValueError):  # of an actor, which its owner ends
                ray.cancel(task, force=True)
            raise Refused(
                f"waited {self.timeout_s:g} s (ray.start_timeout_s) for {what} in vain; the cluster has "
                f"{describe_nodes(alive_nodes())}: add nodes, or lower ray.gpus_per_worker or ray.cpus_per_worker"
            ) from None
        except ray.exceptions.TaskUnschedulableError:
            raise
        except ray.exceptions.RayError as error:
            raise Refused(f"a task on the Ray cluster failed: {last_line(error)}") from None


def await_workers(config: RayConfig, *, started_here: bool, gpus: bool, patience: CapacityWait) -> Workers:
    """Return the workers for a cluster, once there is room for one of them.

    A cluster that was not started here may grow: it is waited for, and never labels on CPUs because its GPUs are late.

    Args:
        gpus: whether the job is for GPUs, unless `ray.gpus_per_worker` says otherwise.

    Raises:
        Refused: if no worker ever fits, or none did in time.
    """
    place = Placement.of(config)
    if started_here:
        nodes = alive_nodes(place)
        workers = size_workers(config, nodes)
        require_capacity(workers, nodes)
        return workers
    if gpus and config.gpus_per_worker is None:
        config = config.model_copy(update={"gpus_per_worker": 1.0})
    waiting = size_workers(config, alive_nodes(place), may_grow=True)
    _refuse_impossible(waiting)
    if gpus and waiting.gpus and not any(node.get("GPU") for node in alive_nodes(place)):
        hint = "" if place.options else " (ray.gpus_per_worker=0 labels on CPUs)"
        patience.announce(f"a node with a GPU{place}: the cluster has none yet{hint}")
    patience.wait(ray.remote(**waiting.options)(_nothing).remote(), f"room for a worker of {waiting.each}{place}")
    return size_workers(config, alive_nodes(place), may_grow=True)


def _refuse_impossible(workers: Workers) -> None:
    """Refused when the nodes that are there for workers are all too small for one, and nothing launches others.

    A cluster with none that is meant for them (no node with a GPU, none of the kind that is named) may still get some.
    """
    nodes = alive_nodes(workers.place)
    meant = [node for node in nodes if node.get("GPU")] if workers.gpus else nodes
    if meant and not launches_nodes():
        require_capacity(workers, meant)


def _nothing() -> None:
    """Run where a worker would fit; a task that waits is also what an autoscaler adds nodes for."""


def require_readers(place: Placement) -> None:
    """Refused when reading may run on no node of the cluster, and nothing adds nodes to it."""
    if not alive_nodes(place) and not launches_nodes():
        raise Refused(
            f"no node of the cluster may read{place}: it has {describe_nodes(alive_nodes())}; change "
            "ray.read_label_selector"
        )


def announcing_loss(
    workers: Workers, timeout_s: float, console: Console, every_s: float = _LOOK_S
) -> AbstractContextManager[None]:
    """While inside, print a line when the last node that can hold a worker is lost, and when there is one again.

    Args:
        timeout_s: how long the job then waits.
    """
    return beside(_announce_loss, workers, timeout_s, console, every_s)


def _announce_loss(
    workers: Workers, timeout_s: float, console: Console, every_s: float, stopped: threading.Event
) -> None:
    lost = False
    while not stopped.wait(every_s):
        with suppress(Exception):  # Ray is shut down, or lost itself: see `ray_watch`
            nodes = alive_nodes(workers.place)
            if lost == has_room(workers, nodes):
                lost = not lost
                until = datetime.now() + timedelta(seconds=timeout_s)
                said = (
                    f"no node is left that can hold a worker of {workers.each}{workers.place}, the cluster has "
                    f"{describe_nodes(nodes)}; waiting for one until {until:%Y-%m-%d %H:%M:%S}"
                )
                console.print(said if lost else "a node can hold a worker again", markup=False, soft_wrap=True)
