"""From a configuration to a running worker: everything that can be refused is refused before training starts."""

from __future__ import annotations

import itertools
import logging
import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import distributed

from labeler import storage
from labeler.checkpoints import DetectorCheckpoint
from labeler.detectors.loading import choose_device
from labeler.detectors.preprocess import Preprocessing
from labeler.errors import Refused
from labeler.prompts.grounding_dino.tokenizer import Tokenizer
from labeler.training.annotations import read_coco
from labeler.training.batches import Batches
from labeler.training.categories import NONE, match_by_name
from labeler.training.config import TrainingJob
from labeler.training.examples import ExampleSource, ShapesSource
from labeler.training.loop import Report, Trainer, WorkerPlace, train
from labeler.training.models import start_checkpoint
from labeler.training.outputs import Outputs
from labeler.training.prompting import PromptSampler
from labeler.training.run_labels import read_run
from labeler.training.shapes import ALL, select
from labeler.training.stored_images import Record, StoredSource, digest_of
from labeler.training.validation import ValidationSet, shapes_validation, stored_validation
from labeler.vocabulary import Category, Vocabulary, refuse

# A job may continue with another length, pace or number of workers; with other data or another model it is another job.
MAY_DIFFER = frozenset({"train", "ray", "validation", "output", "partial"})

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class PreparedTraining:
    """Everything that a worker needs, checked; `truth` is a digest of the records and the vocabulary."""

    start: DetectorCheckpoint
    preprocessing: Preprocessing
    source: ExampleSource
    sampler: PromptSampler
    validation: ValidationSet | None
    truth: str


def prepare(job: TrainingJob, folder: Path) -> PreparedTraining:
    """Read and check everything.

    Args:
        folder: a scratch folder of this worker, kept while it trains.

    Raises:
        Refused: bad annotations, vocabulary or checkpoint.
    """
    truth = _read_truth(job)
    _require_words(truth.vocabulary)
    start = start_checkpoint(job.model, truth.vocabulary, folder, seed=job.train.seed)
    preprocessing = Preprocessing.of(start, job.model.image_size)
    sampler = PromptSampler(
        truth.vocabulary,
        Tokenizer.load(start.folder),
        min_categories=job.prompts.min_categories,
        max_categories=job.prompts.max_categories,
        max_tokens=job.prompts.max_tokens,
        drop=job.prompts.drop,
    )
    source = _source(job, truth, preprocessing)
    return PreparedTraining(start, preprocessing, source, sampler, _validation(job, truth.vocabulary), truth.digest)


def check_job(job: TrainingJob) -> None:
    """Raise Refused for whatever a worker would refuse."""
    with tempfile.TemporaryDirectory() as folder:
        truth = prepare(job, Path(folder)).truth
    Outputs(job.output).claim(job.model_dump(mode="json"), may_differ=MAY_DIFFER, truth=truth)


def run_worker(job: TrainingJob, place: WorkerPlace | None = None, report: Report = lambda record: None) -> None:
    """Train as one worker, in this process."""
    if place is None:
        with place_from_environment() as found:
            return run_worker(job, found, report)
    with tempfile.TemporaryDirectory() as folder:
        prepared = prepare(job, Path(folder))
        outputs = Outputs(job.output)
        if place.rank == 0:
            outputs.claim(job.model_dump(mode="json"), may_differ=MAY_DIFFER, truth=prepared.truth)
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
        trainer = Trainer(
            prepared.start,
            prepared.preprocessing,
            job.optimizer,
            job.train,
            job.loss,
            job.pretrain,
            prepared.sampler.category_ids.tolist(),
            place,
            outputs,
        )
        train(
            trainer,
            batches,
            validation=prepared.validation,
            validation_steps=max(1, job.validation.steps),
            report=report,
        )


@contextmanager
def place_from_environment() -> Iterator[WorkerPlace]:
    """This process alone; or, started by torchrun, its place among the others, connected to them."""
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if world == 1:
        yield WorkerPlace(device=choose_device("auto"))
        return
    device = choose_device("auto")
    if device.type == "cuda":
        device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
        torch.cuda.set_device(device)
    distributed.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        yield WorkerPlace(distributed.get_rank(), world, device)
    finally:
        distributed.destroy_process_group()


@dataclass(frozen=True)
class _Truth:
    """Contents of the data: the records (None: scenes are drawn), and the categories that are trained."""

    records: list[Record] | None
    vocabulary: Vocabulary

    @property
    def digest(self) -> str:
        return digest_of(self.records or [], self.vocabulary)


def _read_truth(job: TrainingJob) -> _Truth:
    data = job.data
    given = None if job.vocabulary is None else Vocabulary.load(job.vocabulary)
    if data.shapes is not None:
        drawn = tuple(Category(c.category_id, c.name, (c.name,)) for c in select(data.shapes.combinations))
        vocabulary = Vocabulary("shapes", drawn) if given is None else _with_ids_of(drawn, given)
        return _Truth(None, _without(vocabulary, data.exclude))
    if data.run is not None:
        source = f"data.run {storage.redact(data.run)}"
        records, vocabulary = read_run(
            data.run,
            score_threshold=data.score_threshold,
            vocabulary=given,
            partial=job.partial,
            reviewed_weight=data.reviewed_weight,
        )
    else:
        source = f"annotations {storage.redact(str(data.annotations))}"
        vocabulary = given or Vocabulary.load(str(data.annotations))
        records = read_coco(str(data.annotations), str(data.images), vocabulary, partial=job.partial)
    truth = _exclude(records, vocabulary, data.exclude)
    if not any(len(record.boxes_xyxy) for record in truth.records or ()):
        log.warning("%s: none of its %d images has a box to train on", source, len(records))
    return truth


def _with_ids_of(drawn: Sequence[Category], given: Vocabulary) -> Vocabulary:
    """Return the given categories with the ids that synthetic scenes have for their names; others get
    ids of their own.
    """
    ids, _ = match_by_name(given.categories, np.zeros(len(given), np.int64), Vocabulary("shapes", tuple(drawn)),
                           source=f"vocabulary {given.name}")  # fmt: skip
    free = itertools.count(1 + max(combination.category_id for combination in ALL))
    found = [
        replace(c, id=next(free) if id_ == NONE else int(id_)) for c, id_ in zip(given.categories, ids, strict=True)
    ]
    return Vocabulary(given.name, tuple(found))


def _exclude(records: list[Record], vocabulary: Vocabulary, names: tuple[str, ...]) -> _Truth:
    kept = _without(vocabulary, names)
    return _Truth([record.only(kept.by_id) for record in records] if names else records, kept)


def _without(vocabulary: Vocabulary, names: tuple[str, ...]) -> Vocabulary:
    unknown = sorted(set(names) - {c.name for c in vocabulary.categories})
    if unknown:
        raise Refused(f"data.exclude: no category called {', '.join(unknown)}")
    return Vocabulary(vocabulary.name, tuple(c for c in vocabulary.categories if c.name not in names))


def _require_words(vocabulary: Vocabulary) -> None:
    """Raise Refused for categories whose only phrases are images; beside words, images are excluded."""
    problems = [
        f"{vocabulary.where(category)}: its only phrases are images, and a model is trained on words; "
        "give it a phrase of words, or leave it out with data.exclude"
        for category in vocabulary.categories
        if not category.phrases
    ]
    if problems:
        raise refuse(vocabulary.name, problems)


def _source(job: TrainingJob, truth: _Truth, preprocessing: Preprocessing) -> ExampleSource:
    shapes = job.data.shapes
    if truth.records is not None or shapes is None:
        return StoredSource(truth.records or [], preprocessing, seed=job.train.seed, bucket_px=job.data.bucket_px)
    return ShapesSource(
        preprocessing,
        select(shapes.combinations),
        seed=shapes.seed,
        images=shapes.images,
        max_objects=shapes.max_objects,
        natural=shapes.natural,
        radii=shapes.radii,
    )


def _validation(job: TrainingJob, vocabulary: Vocabulary) -> ValidationSet | None:
    config = job.validation
    if not config.steps:
        return None
    if config.shapes is not None:
        return shapes_validation(config.shapes.seed, config.shapes.images, natural=config.shapes.natural)
    if config.annotations is None or config.images is None:
        return None
    records = read_coco(config.annotations, config.images, vocabulary, partial=job.partial, only_known=True)
    return stored_validation(records[: config.limit], vocabulary, partial=job.partial)
