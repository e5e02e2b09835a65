"""GPUs that are reserved for a worker: whether torch can use them, asked before labeling and at each worker's start."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy
from rich.console import Console

from labeler.errors import Refused
from labeler.pipeline.capacity import CapacityWait
from labeler.pipeline.cluster import Workers, last_line

_OTHERS_S = 20.0  # for the answers of other nodes, once one GPU is known to work


def require_gpus(workers: Workers, patience: CapacityWait, console: Console) -> None:
    """Try on each node with GPUs, with a worker's GPUs reserved, whether torch can use them.

    A node where it cannot costs a warning while others can: its workers will not start.

    Raises:
        Refused: if torch can use a GPU on no node.
    """
    nodes = [node["NodeID"] for node in ray.nodes() if _holds(node, workers)]
    options = {"num_cpus": 0, "num_gpus": workers.gpus, "max_retries": 2}
    pinned = [{**options, "scheduling_strategy": NodeAffinitySchedulingStrategy(node, soft=False)} for node in nodes]
    waiting = [ray.remote(_probe).options(**each).remote() for each in pinned]
    problems: list[str] = []
    works = False
    while waiting and not works:
        ready, waiting = ray.wait(waiting, timeout=patience.left_s)
        if not ready:
            break
        works = not (problem := _answer(ready[0]))
        problems += [problem] if problem else []
    if not works:
        raise Refused(problems[0] if problems else f"no GPU was free in {patience.timeout_s:g} s (ray.start_timeout_s)")
    late, unanswered = ray.wait(waiting, num_returns=len(waiting), timeout=_OTHERS_S) if waiting else ([], [])
    for task in unanswered:
        ray.cancel(task, force=True)
    for problem in filter(None, [*problems, *map(_answer, late)]):
        console.print(f"warning: {problem}; no worker starts there", markup=False, soft_wrap=True)


def _holds(node: Mapping[str, Any], workers: Workers) -> bool:
    return bool(node["Alive"]) and workers.place.allows(node) and node["Resources"].get("GPU", 0.0) >= workers.gpus


def _answer(task: Any) -> str:
    try:
        return str(ray.get(task))
    except ray.exceptions.RayError as error:
        return f"the GPUs of a node could not be tried: {last_line(error)}"


def _probe() -> str:
    """On a worker: one line about its GPU, empty if torch can use it."""
    try:
        require_cuda()
    except Refused as error:
        return str(error)
    return ""


def require_cuda() -> None:
    """In a worker for which GPUs are reserved.

    Raises:
        Refused: if torch cannot use them: it would label on CPUs, a hundred times slower, beside an idle GPU.
    """
    from labeler.detectors.cuda import why_no_cuda

    if why := why_no_cuda():
        raise Refused(
            f"torch cannot use the GPU that is reserved for it on node {platform.node()} ({why}); install a torch for "
            "this GPU's driver, or set model.device=cpu"
        )


def share_gpu(part: float) -> None:
    """In a worker for which a part (0 to 1) of a GPU is reserved: take no more of its memory than that."""
    from labeler.detectors.cuda import share_memory

    share_memory(part)
