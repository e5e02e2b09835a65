"""The training job on Ray Train: the one file of training that imports Ray."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console

from labeler.errors import Incomplete, LabelerError
from labeler.terminal import message_console
from labeler.training.config import TrainingJob, TrainingRay, make_training_job
from labeler.training.outputs import print_record


def run_on_ray(job: TrainingJob) -> None:
    """Train with `ray.workers` workers. What can be refused is refused here, before any of them starts.

    Raises:
        Refused: bad annotations, vocabulary, checkpoint or output.
        Incomplete: a worker failed; the same command continues from the last save.
    """
    import ray
    from ray.train import RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer

    from labeler.pipeline.connection import connect
    from labeler.pipeline.ray_watch import watching_ray
    from labeler.training.job import check_job

    check_job(job)
    mine = not ray.is_initialized()
    console = message_console()
    started_here = connect(job.ray.address, console, log_to_driver=True)
    resources = {"CPU": job.ray.cpus_per_worker, **({"GPU": 1.0} if job.ray.use_gpu else {})}
    try:
        _await_worker(job.ray, started_here, console)
        with tempfile.TemporaryDirectory() as folder, watching_ray(console, started_here=started_here):
            # Ray keeps its own notes in that folder; labeler's are in the job's output.
            TorchTrainer(
                _work,
                train_loop_config=job.model_dump(mode="json"),
                scaling_config=ScalingConfig(
                    num_workers=job.ray.workers, use_gpu=job.ray.use_gpu, resources_per_worker=resources
                ),
                run_config=RunConfig(name="labeler-train", storage_path=str(Path(folder))),
            ).fit()
    except LabelerError:
        raise
    except Exception as error:  # Ray wraps whatever a worker raised
        reason = (str(error).strip() or type(error).__name__).splitlines()[-1]
        raise Incomplete(f"training stopped: {reason}; the same command continues from the last save") from error
    finally:
        if mine:
            ray.shutdown()


def _await_worker(config: TrainingRay, started_here: bool, console: Console) -> None:
    """Wait until there is room for a worker. Refused if there never will be, or if torch cannot use its GPU."""
    from labeler.config import RayConfig as Settings
    from labeler.pipeline.capacity import CapacityWait, await_workers
    from labeler.pipeline.gpus import require_gpus

    patience = CapacityWait(config.start_timeout_s, console)
    gpus = 1.0 if config.use_gpu else 0.0
    settings = Settings(workers=config.workers, gpus_per_worker=gpus, cpus_per_worker=config.cpus_per_worker)
    workers = await_workers(settings, started_here=started_here, gpus=config.use_gpu, patience=patience)
    if workers.gpus:
        require_gpus(workers, patience, console)


def _work(config: Mapping[str, Any]) -> None:
    from ray.train import get_context
    from ray.train.torch import get_device

    from labeler.training.job import run_worker
    from labeler.training.loop import WorkerPlace

    job, context = make_training_job(config), get_context()
    if job.ray.use_gpu:
        from labeler.pipeline.gpus import require_cuda

        require_cuda()
    place = WorkerPlace(context.get_world_rank(), context.get_world_size(), get_device())
    run_worker(job, place, report=print_record)
