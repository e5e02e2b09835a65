"""How the work is cut into units, and what a run takes from the Ray cluster."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import AfterValidator, Field

from labeler.config.section import Bytes, Section


class UnitConfig(Section):
    """The work unit: the number of images that are labeled and committed together."""

    max_images: int | None = Field(None, gt=0)
    """The most images of a unit. By default about 20 seconds of work (at 40 forward passes a second), 256 at most."""
    max_bytes: Bytes = 64 * 2**20
    """The most bytes of a unit's image files. Accepts sizes such as `64MiB`."""
    max_image_bytes: Bytes = 256 * 2**20
    """The most bytes of an image file. Larger files become rows with status `read_error`."""

    @property
    def images(self) -> int:
        """The most images of a unit, in the configuration of a job: its plan decides what was left open."""
        assert self.max_images is not None, "resolve_job says it"
        return self.max_images


_LABEL_CONDITION = re.compile(r"!?(in\(\s*[\w.-]+(\s*,\s*[\w.-]+)*\s*\)|\w([\w.-]*\w)?)")


def _as_label_selector(value: dict[str, str]) -> dict[str, str]:
    for name, condition in value.items():
        if not name or not _LABEL_CONDITION.fullmatch(condition):
            raise ValueError(
                f"{name}: {condition!r} is not a condition of Ray; give VALUE, !VALUE, in(A, B) or !in(A, B)"
            )
    return value


LabelSelector = Annotated[dict[str, str], AfterValidator(_as_label_selector)]


class RayConfig(Section):
    """Resources that the run takes from the Ray cluster."""

    address: str | None = None
    """The Ray cluster: `HOST:PORT`, `auto` for the one on this machine, or `local` for a new one. By default,
    RAY_ADDRESS, else a new local one."""
    workers: int | None = Field(None, gt=0)
    """The number of detector workers. By default, one per GPU, or one for the CPUs of a node."""
    max_workers: int | None = Field(None, gt=0)
    """The most workers, even if the cluster has or gets more GPUs."""
    gpus_per_worker: float | None = Field(None, ge=0)
    """The GPUs of a worker; 0.5 lets two share one. By default 1 if the cluster has GPUs, else 0."""
    cpus_per_worker: float | None = Field(None, gt=0)
    """The CPUs that Ray reserves per worker, and its number of threads. By default, workers share their node's CPUs."""
    accelerator_type: str | None = None
    """The only kind of GPU that workers use, as Ray names it: `L4`, `A100-80G`."""
    label_selector: LabelSelector = Field(default_factory=dict)
    """Only nodes with these Ray labels get workers, e.g. `{market: "!spot"}`."""
    read_label_selector: LabelSelector = Field(default_factory=dict)
    """Only nodes with these Ray labels run read tasks."""
    read_cpus: float = Field(0.25, gt=0)
    """The CPUs that Ray reserves per read task."""
    read_tasks: int | None = Field(None, gt=0)
    """The number of shards that are read at the same time. By default, two per worker, or eight if nodes may join."""
    wave_units: int = Field(1_000_000, gt=0)
    """The most units of a wave (one Ray Data dataset). The driver needs about 1 kB of memory for each."""
    start_timeout_s: float = Field(1800.0, gt=0)
    """How many seconds to wait for the cluster to have room before the job gives up."""
    seed: int | None = None
    """The seed of the order of shards. By default, each job draws another, so that two jobs share the work."""
