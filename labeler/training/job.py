"""From a configuration to a running worker: everything that can be refused is refused before training starts."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import distributed

from labeler.checkpoints import Checkpoint
from labeler.detectors.loading import choose_device
from labeler.detectors.preprocess import Preprocessing
from labeler.shapes import Combination, select
from labeler.tokenizer import Tokenizer
from labeler.training.batches import Batches
from labeler.training.config import DataConfig, TrainingJob
from labeler.training.examples import ShapesSource, Source
from labeler.training.loop import Place, Report, Trainer, train
from labeler.training.models import start_checkpoint
from labeler.training.outputs import Outputs
from labeler.training.prompting import PromptSampler
from labeler.training.validation import ValidationSet, shapes_validation
from labeler.vocabulary import Category, Vocabulary

# A job may go on with another length, pace or number of workers; with other data or another model it is another job.
MAY_DIFFER = frozenset({"train", "ray", "validation", "output"})


@dataclass(frozen=True)
class Prepared:
    """What a worker needs, checked."""

    start: Checkpoint
    preprocessing: Preprocessing
    source: Source
    sampler: PromptSampler
    validation: ValidationSet | None


def prepare(job: TrainingJob, folder: Path) -> Prepared:
    """Read and check everything.

    Args:
        folder: a scratch folder of this worker, kept while it trains.

    Raises:
        Refused: bad annotations, vocabulary or checkpoint.
    """
    vocabulary = _vocabulary(job)
    start = start_checkpoint(job.model, vocabulary, folder, seed=job.train.seed)
    preprocessing = Preprocessing.of(start, job.model.image_size)
    sampler = PromptSampler(
        vocabulary,
        Tokenizer.load(start.folder),
        min_categories=job.prompts.min_categories,
        max_categories=job.prompts.max_categories,
        max_tokens=job.prompts.max_tokens,
        drop=job.prompts.drop,
    )
    return Prepared(start, preprocessing, _source(job.data, preprocessing), sampler, _validation(job))


def run_worker(job: TrainingJob, place: Place | None = None, report: Report = lambda record: None) -> None:
    """Train as one worker, in this process."""
    if place is None:
        with place_from_environment() as found:
            return run_worker(job, found, report)
    with tempfile.TemporaryDirectory() as folder:
        prepared = prepare(job, Path(folder))
        outputs = Outputs(job.output)
        if place.rank == 0:
            outputs.claim(_plain(job), may_differ=MAY_DIFFER)
        batches = Batches(
            prepared.source,
            prepared.sampler,
            batch_size=job.train.batch_size,
            seed=job.train.seed,
            rank=place.rank,
            world=place.world,
            flip=job.data.flip,
            share_prompt=job.prompts.share == "batch",
        )
        trainer = Trainer(prepared.start, prepared.preprocessing, job.optimizer, job.train, place, outputs)
        train(
            trainer, batches, validation=prepared.validation, validation_steps=job.validation.steps, report=report
        )


@contextmanager
def place_from_environment() -> Iterator[Place]:
    """This process alone; or, started by torchrun, its place among the others, connected to them."""
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if world == 1:
        yield Place(device=choose_device("auto"))
        return
    device = choose_device("auto")
    if device.type == "cuda":
        device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
        torch.cuda.set_device(device)
    distributed.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        yield Place(distributed.get_rank(), world, device)
    finally:
        distributed.destroy_process_group()


def _plain(job: TrainingJob) -> Mapping[str, Any]:
    plain: dict[str, Any] = job.model_dump(mode="json")
    return plain


def _vocabulary(job: TrainingJob) -> Vocabulary:
    if job.vocabulary is not None:
        return Vocabulary.load(job.vocabulary)
    assert job.data.shapes is not None
    return _shapes_vocabulary(select(job.data.shapes.combinations))


def _shapes_vocabulary(combinations: tuple[Combination, ...]) -> Vocabulary:
    return Vocabulary("shapes", tuple(Category(c.category_id, c.name, (c.name,)) for c in combinations))


def _source(data: DataConfig, preprocessing: Preprocessing) -> Source:
    assert data.shapes is not None
    shapes = data.shapes
    return ShapesSource(
        preprocessing,
        select(shapes.combinations),
        seed=shapes.seed,
        images=shapes.images,
        max_objects=shapes.max_objects,
    )


def _validation(job: TrainingJob) -> ValidationSet | None:
    if not job.validation.steps:
        return None
    return shapes_validation(job.validation.shapes_seed, job.validation.images)
