"""The resources of a Ray cluster, the workers sized for them, and the settings of Ray Data for a run."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ray.data import ActorPoolStrategy, DataContext

from labeler.config import RayConfig
from labeler.errors import Refused
from labeler.pipeline.nodes import ANYWHERE, Placement

_SLOWEST_UNIT_S = 86_400.0
MAX_START_DEATHS = 4  # in a row over all nodes, none starting well between; each costs the time to load a model
_ROUNDING = 1e-6  # 0.3 + 0.3 + 0.3 + 0.1 is a GPU
_MAY_GROW = 4  # readers are bounded when a pass begins: for a cluster that may grow, at this many times what it needs


@dataclass(frozen=True)
class Workers:
    """The detector actors: how many there are room for at the start, and what each takes.

    Attributes:
        most: no more than these, however large the cluster gets; None: as many as it holds.
        threads: CPU threads of one, if configured; None: decided on its node.
        place: the nodes that they may run on; `read_place`: those of the tasks that read for them.
    """

    count: int
    gpus: float
    cpus: float
    most: int | None = None
    threads: int | None = None
    place: Placement = ANYWHERE
    read_place: Placement = ANYWHERE

    @property
    def readers(self) -> int:
        """Shards read at the same time; left alone, Ray Data starts a process for each that finds a free CPU share."""
        expected = _MAY_GROW * self.count
        return max(4, 2 * (expected if self.most is None else min(expected, self.most)))

    @property
    def options(self) -> dict[str, Any]:
        """Return what a task or actor of Ray is started with to take a worker's place."""
        return {"num_cpus": self.cpus, "num_gpus": self.gpus or None, **self.place.options}

    @property
    def each(self) -> str:
        """Return what one takes, e.g. `1 GPU, 4 CPU`."""
        return f"{self.gpus:g} GPU, {self.cpus:g} CPU" if self.gpus else f"{self.cpus:g} CPU"

    def __str__(self) -> str:
        return f"{self.count} worker{'s' if self.count != 1 else ''} ({self.each} each{self.place})"

    def pool(self, concurrent_units: int) -> ActorPoolStrategy:
        """A pool that begins with all there is room for now, and follows the cluster: nodes that join, nodes lost."""
        return ActorPoolStrategy(
            min_size=1,
            initial_size=self.count,
            max_size=self.most,
            max_concurrent_calls_per_actor=concurrent_units,
            enable_true_multi_threading=True,
        )


def configure_ray_data() -> None:
    """Set what the pipeline needs of Ray Data; each line has its reason."""
    context = DataContext.get_current()
    context.target_max_block_size = 1  # one row is one block: a crash costs one unit, a receipt is seen at once
    context.max_errored_blocks = -1  # a lost block is work left over; the listing of commits is the ground truth
    context.max_consecutive_actor_init_deaths = MAX_START_DEATHS  # one node where workers cannot start is not an end
    context.actor_init_retry_on_errors = False  # a fresh process, perhaps on another node, beats the same one again
    context.autoscaling_config.actor_pool_util_downscaling_threshold = -1.0  # while input is left: a model is dear
    context.enable_progress_bars = False  # the run prints its own
    context.print_on_execution_start = False


def size_workers(config: RayConfig, nodes: Sequence[Mapping[str, float]], *, may_grow: bool = False) -> Workers:
    """Workers for nodes with these resources; what the config names is taken as it says.

    A worker with a GPU asks for one CPU at most, so that it finds room on small nodes too; how many threads it runs is
    decided on its node. Without GPUs it asks for the CPUs that it uses. Something of every node's CPUs is left free: a
    node whose workers took all of them would starve its readers.

    Args:
        may_grow: whether nodes may join later.
    """
    nodes = [node for node in nodes if node.get("CPU")] or [{"CPU": 2.0}]
    cluster_gpus = sum(node.get("GPU", 0.0) for node in nodes)
    gpus = config.gpus_per_worker if config.gpus_per_worker is not None else (1.0 if cluster_gpus else 0.0)
    if gpus:
        shares = [(node["CPU"] - 1) * gpus / node["GPU"] for node in nodes if node.get("GPU")]
        cpus = config.cpus_per_worker or _whole_or_part(min(1.0, *shares) if shares else 1.0)
        count = config.workers or max(1, sum(workers_on(node, gpus, cpus) for node in nodes))
    else:
        count = config.workers or len(nodes)
        share = (min(node["CPU"] for node in nodes) - 1) / math.ceil(count / len(nodes))
        cpus = config.cpus_per_worker or _whole_or_part(share)
    bounds = [bound for bound in (config.workers, config.max_workers) if bound is not None]
    count = min(count, *bounds) if bounds else count
    # Without GPUs nothing but their number keeps workers from taking all CPUs of a large node; each worker loads a
    # model.
    most = min(bounds) if bounds else None if may_grow and gpus else count
    threads = max(1, math.floor(config.cpus_per_worker)) if config.cpus_per_worker else None
    return Workers(count, gpus, cpus, most, threads, Placement.of(config), Placement.of_readers(config))


def workers_on(node: Mapping[str, float], gpus: float, cpus: float) -> int:
    """Return how many workers that take these resources one node holds: a worker never spans two."""
    room = [math.floor(node.get("CPU", 0.0) / cpus + _ROUNDING)]
    if gpus:
        room.append(math.floor(node.get("GPU", 0.0) / gpus + _ROUNDING))
    return min(room)


def _whole_or_part(cpus: float) -> float:
    """CPUs as Ray counts them well: whole ones, or a part in steps of a twentieth, a quarter at least."""
    return float(math.floor(cpus)) if cpus >= 1 else max(0.25, math.floor(cpus * 20) / 20)


def limit_waiting(config: RayConfig, workers: Workers) -> float:
    """Set and return the seconds that nothing may be finished before the pass is given up: it may wait in vain.

    On GPUs that is `ray.start_timeout_s`, long enough for spot capacity. A CPU takes minutes for an image of a large
    vocabulary, and an hour for a unit: there it is a day, or no unit would ever be finished.
    """
    seconds = config.start_timeout_s if workers.gpus else max(config.start_timeout_s, _SLOWEST_UNIT_S)
    DataContext.get_current().execution_no_progress_timeout_s = int(seconds)
    return seconds


def require_capacity(workers: Workers, nodes: Sequence[Mapping[str, float]]) -> None:
    """Refused when none of these nodes can ever hold one worker."""
    if not has_room(workers, nodes):
        raise Refused(
            f"no node can hold a worker of {workers.each}, the cluster has {describe_nodes(nodes)}{workers.place}; "
            "lower ray.gpus_per_worker or ray.cpus_per_worker"
        )


def has_room(workers: Workers, nodes: Sequence[Mapping[str, float]]) -> bool:
    """Return whether one of these nodes is large enough for one worker."""
    return any(node.get("CPU", 0) >= workers.cpus and node.get("GPU", 0) >= workers.gpus for node in nodes)


def describe_nodes(nodes: Sequence[Mapping[str, float]]) -> str:
    """Return a line about nodes with these resources, e.g. "3 nodes of 16 CPU, 1 GPU; 1 node of 4 CPU, 0 GPU"."""
    counts = Counter(f"{node.get('CPU', 0):g} CPU, {node.get('GPU', 0):g} GPU" for node in nodes)
    kinds = [f"{count} node{'' if count == 1 else 's'} of {kind}" for kind, count in counts.most_common()]
    return "; ".join(kinds) or "no node"


def last_line(error: BaseException) -> str:
    """Return what an error says in the end: Ray puts whole tracebacks of its workers into a message."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
