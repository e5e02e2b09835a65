"""Where a job would run: the workers of its cluster, or of this machine, without starting anything."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from labeler.config import Config, RayConfig
from labeler.machine import available_cpus
from labeler.pipeline.cluster import size_workers
from labeler.pipeline.connection import connect, starts_ray
from labeler.pipeline.nodes import Placement, alive_nodes
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
    note = ""
    if own:
        nodes = [{"CPU": float(max(1, math.floor(available_cpus()))), **({"GPU": float(_gpus())} if on_gpu else {})}]
    else:
        connect(settings.address, message_console())
        nodes = alive_nodes(Placement.of(settings))
        if settings.gpus_per_worker is None:  # as the job will be: it waits for GPUs, and never labels on CPUs instead
            settings = settings.model_copy(update={"gpus_per_worker": 1.0})
        note = _note(settings, nodes, on_gpu=on_gpu)
    return Site(size_workers(settings, nodes, may_grow=not own).count, starts_ray=own, note=note)


def _note(settings: RayConfig, nodes: Sequence[Mapping[str, float]], *, on_gpu: bool) -> str:
    """Return what a user of a cluster with GPUs must know of the figures; empty for nothing."""
    if not settings.gpus_per_worker:
        return ""
    notes = []
    if not any(node.get("GPU") for node in nodes):
        notes.append("the cluster has no GPU yet, and the job will wait for one: the workers are a guess")
    if not on_gpu:
        notes.append("its workers have GPUs, and a CPU was timed: run this on a GPU node for hours that count")
    return "; ".join(notes)


def _gpus() -> int:
    """GPUs of this machine that this process may use; 1 where the driver does not say."""
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    found = len(list(_NVIDIA.glob("*"))) or 1
    return found if chosen is None else min(found, len([each for each in chosen.split(",") if each.strip()]) or 1)
