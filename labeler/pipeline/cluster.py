"""The resources of a Ray cluster, the workers sized for them, and the settings of Ray Data for a run."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import ray
from ray.data import DataContext

from labeler.config import RayConfig
from labeler.errors import Refused

MAX_DECODE_THREADS = 8  # a worker's share of a big node; decode beside the detector rarely needs more
_SLOWEST_UNIT_S = 86_400.0
MAX_START_DEATHS = 4  # in a row over all nodes, none starting well between; each costs the time to load a model


@dataclass(frozen=True)
class Workers:
    """How many detector actors, and what each takes."""

    count: int
    gpus: float
    cpus: float

    @property
    def threads(self) -> int:
        """CPU threads of one worker, for decoding and (without a GPU) for the forward."""
        return max(1, math.floor(self.cpus))

    @property
    def readers(self) -> int:
        """Shards read at the same time; left alone, Ray Data starts a process for each that finds a free CPU share."""
        return max(4, 2 * self.count)

    @property
    def each(self) -> str:
        """What one takes, e.g. `1 GPU, 4 CPU`."""
        return f"{self.gpus:g} GPU, {self.cpus:g} CPU" if self.gpus else f"{self.cpus:g} CPU"

    def __str__(self) -> str:
        return f"{self.count} worker{'s' if self.count != 1 else ''} ({self.each} each)"


def configure_ray_data() -> None:
    """What the pipeline needs of Ray Data; each line has its reason."""
    context = DataContext.get_current()
    context.target_max_block_size = 1  # one row is one block: a crash costs one unit, a receipt is seen at once
    context.max_errored_blocks = -1  # a lost block is work left over; the listing of commits is the truth
    context.max_consecutive_actor_init_deaths = MAX_START_DEATHS  # one node where workers cannot start is no end
    context.actor_init_retry_on_errors = False  # a fresh process, perhaps on another node, beats the same one again
    context.enable_progress_bars = False  # the run prints its own
    context.print_on_execution_start = False


def size_workers(config: RayConfig, nodes: Sequence[Mapping[str, float]]) -> Workers:
    """Workers for nodes with these resources; what the config names is taken as it says.

    Something of every node's CPUs is left free: a node whose workers took all of them would starve its readers.
    """
    nodes = [node for node in nodes if node.get("CPU")] or [{"CPU": 2.0}]
    cluster_gpus = sum(node.get("GPU", 0.0) for node in nodes)
    gpus = config.gpus_per_worker if config.gpus_per_worker is not None else (1.0 if cluster_gpus else 0.0)
    if gpus:
        count = config.workers or max(1, math.floor(cluster_gpus / gpus))
        shares = [(node["CPU"] - 1) * gpus / node["GPU"] for node in nodes if node.get("GPU")] or [1.0]
        share = min(MAX_DECODE_THREADS, *shares)
    else:
        count = config.workers or len(nodes)
        share = (min(node["CPU"] for node in nodes) - 1) / math.ceil(count / len(nodes))
    whole_or_part = float(math.floor(share)) if share >= 1 else max(0.25, math.floor(share * 20) / 20)
    return Workers(count, gpus, config.cpus_per_worker or whole_or_part)


def limit_waiting(config: RayConfig, workers: Workers) -> float:
    """Set and return the seconds that nothing may be finished before the pass is given up: it may wait in vain.

    On GPUs that is `ray.start_timeout_s`, long enough for spot capacity. A CPU takes minutes for an image of a large
    vocabulary, and an hour for a unit: there it is a day, or no unit would ever be finished.
    """
    seconds = config.start_timeout_s if workers.gpus else max(config.start_timeout_s, _SLOWEST_UNIT_S)
    DataContext.get_current().execution_no_progress_timeout_s = int(seconds)
    return seconds


def alive_nodes() -> list[dict[str, float]]:
    """Resources of the cluster's nodes as it is now."""
    return [node["Resources"] for node in ray.nodes() if node["Alive"]]


def require_capacity(workers: Workers, nodes: Sequence[Mapping[str, float]]) -> None:
    """Refused when none of these nodes can ever hold one worker."""
    if not has_room(workers, nodes):
        raise Refused(
            f"no node can hold a worker of {workers.each}, the cluster has {describe_nodes(nodes)}; "
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
    """What an error says in the end: Ray puts whole tracebacks of its workers into a message."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
