"""The training job on Ray Train: the one file of training that imports Ray."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console

from labeler.errors import Incomplete, LabelerError
from labeler.training.config import TrainingJob, make_training_job
from labeler.training.outputs import print_record


def run_on_ray(job: TrainingJob) -> None:
    """Train with `ray.workers` workers. What can be refused is refused here, before any of them starts.

    Raises:
        Refused: bad annotations, vocabulary, checkpoint or output.
        Incomplete: a worker failed; the same command goes on from the last save.
    """
    import ray
    from ray.train import RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer

    from labeler.pipeline.connection import connect
    from labeler.training.job import check_job

    check_job(job)
    mine = not ray.is_initialized()
    connect(job.ray.address, Console(stderr=True, highlight=False), log_to_driver=True)
    resources = {"CPU": job.ray.cpus_per_worker, **({"GPU": 1.0} if job.ray.use_gpu else {})}
    try:
        with tempfile.TemporaryDirectory() as folder:  # Ray keeps its own notes; ours are in the job's output
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
        raise Incomplete(f"training stopped: {reason}; the same command goes on from the last save") from error
    finally:
        if mine:
            ray.shutdown()


def _work(config: Mapping[str, Any]) -> None:
    from ray.train import get_context
    from ray.train.torch import get_device

    from labeler.training.job import run_worker
    from labeler.training.loop import Place

    context = get_context()
    place = Place(context.get_world_rank(), context.get_world_size(), get_device())
    run_worker(make_training_job(config), place, report=print_record)
