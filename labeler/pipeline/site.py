"""Where a job would run: the workers of its cluster, or of this machine, without starting anything."""

from __future__ import annotations

import math
import os
from pathlib import Path

from labeler.config import Config
from labeler.machine import available_cpus
from labeler.pipeline.cluster import size_workers
from labeler.pipeline.connection import connect, starts_ray
from labeler.pipeline.nodes import Place, alive_nodes
from labeler.terminal import message_console
from labeler.trial.estimate import Site

_NVIDIA = Path("/proc/driver/nvidia/gpus")


def site_of(config: Config, *, on_gpu: bool) -> Site:
    """The workers that `labeler label` would have now.

    Args:
        on_gpu: whether the model runs on a GPU here; a cluster says itself what it has.

    Raises:
        Refused: the cluster cannot be reached.
    """
    settings, own = config.ray, starts_ray(config.ray.address)
    if config.model.device == "cpu" and settings.gpus_per_worker is None:
        settings = settings.model_copy(update={"gpus_per_worker": 0.0})
    if own:
        nodes = [{"CPU": float(max(1, math.floor(available_cpus()))), **({"GPU": float(_gpus())} if on_gpu else {})}]
    else:
        connect(settings.address, message_console())
        nodes = alive_nodes(Place.of(settings))
    return Site(size_workers(settings, nodes).count, starts_ray=own)


def _gpus() -> int:
    """GPUs of this machine that this process may use; 1 where the driver does not say."""
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    found = len(list(_NVIDIA.glob("*"))) or 1
    return found if chosen is None else min(found, len([each for each in chosen.split(",") if each.strip()]) or 1)
