"""The configuration of a training job: frozen models, read from YAML plus `section.key=value` overrides."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer, model_validator

from labeler.config import Section
from labeler.config_values import read_yaml, validate


class NewModel(Section):
    """A checkpoint from scratch: a size that `create_checkpoint` takes, with fields of its own and of transformers."""

    kind: Literal["mm", "original"] = "mm"
    size: str | dict[str, Any] = "small"  # "tiny", "small", "full", or the fields of a Size
    config: dict[str, Any] = Field(default_factory=dict)  # of transformers' config, e.g. decoder_layers: 3
    words: tuple[str, ...] = ()  # the tokenizer's whole words; empty: those of the training vocabulary
    vocab_file: str | None = None  # a BERT vocab.txt instead


class StudentConfig(Section):
    """Where the weights come from: a checkpoint to go on from, or a new one."""

    name: str | None = None  # hub name, folder or URL
    revision: str | None = None
    new: NewModel | None = None
    image_size: tuple[int, int] | None = None  # (shortest, longest) edge; None: the checkpoint's own

    @model_validator(mode="after")
    def _one_of_two(self) -> StudentConfig:
        if (self.name is None) == (self.new is None):
            raise ValueError("say either model.name (a checkpoint to go on from) or model.new (from scratch)")
        return self


class ShapesData(Section):
    """Scenes drawn on the fly: endless, and no disk."""

    seed: int = Field(0, ge=0)
    combinations: str | tuple[str, ...] = "seen"
    images: int | None = Field(None, gt=0)  # only the first so many scenes, again and again; None: no end
    max_objects: int = Field(12, gt=0)
    natural: float = Field(0.0, ge=0, le=1)  # share of scenes before a background like a photograph's, drawn as well
    radii: tuple[float, float] = (0.07, 0.24)  # of the objects, in parts of the image's shorter side

    @model_serializer(mode="wrap")
    def _as_earlier_versions_wrote_it(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave out what is new and not used: a folder of an earlier version can be resumed."""
        values: dict[str, Any] = write(self)
        for name in ("natural", "radii"):
            if getattr(self, name) == type(self).model_fields[name].default:
                values.pop(name, None)
        return values


class DataConfig(Section):
    """Images with boxes: drawn shapes, a COCO file with its images, or a labeler run."""

    shapes: ShapesData | None = None
    annotations: str | None = None  # COCO json
    images: str | None = None  # a folder of images or of WebDataset tars, or one tar
    run: str | None = None  # a run's folder: its labels are the truth
    score_threshold: float = Field(0.3, ge=0, le=1)  # of a run's labels
    reviewed_weight: int = Field(1, ge=1, le=1000)  # how often a completely reviewed image of a run is there
    exclude: tuple[str, ...] = ()  # names of categories that are neither boxes nor asked for: to be held out
    flip: float = Field(0.0, ge=0, le=1)  # how often an image is mirrored
    bucket_px: int = Field(1, gt=0)  # sides are rounded to multiples of it, so that photographs share shapes

    @model_serializer(mode="wrap")
    def _as_before(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Without a weight of 1, so that a training that an earlier version began goes on."""
        values: dict[str, Any] = dump(self)
        return values if self.reviewed_weight != 1 else {k: v for k, v in values.items() if k != "reviewed_weight"}

    @model_validator(mode="after")
    def _one_source(self) -> DataConfig:
        if sum(source is not None for source in (self.shapes, self.annotations, self.run)) != 1:
            raise ValueError("say one of data.shapes, data.annotations (with data.images) and data.run")
        if (self.annotations is None) != (self.images is None):
            raise ValueError("data.annotations and data.images go together")
        return self


class TrainingPrompts(Section):
    """What an image is asked for in one step."""

    min_categories: int = Field(4, gt=0)
    max_categories: int = Field(48, gt=0)
    max_tokens: int = Field(256, ge=8, le=256)
    drop: float = Field(0.1, ge=0, le=1)  # how often a category that is in the image is not asked for
    share: Literal["image", "batch"] = "image"  # a prompt of its own for each image, or one for the batch


class OptimizerConfig(Section):
    """AdamW, warm-up, then half a cosine to zero."""

    lr: float = Field(1e-4, gt=0)
    backbone_factor: float = Field(1.0, ge=0)  # of lr, for the image backbone; 0 freezes it
    text_factor: float = Field(1.0, ge=0)  # of lr, for the text encoder; 0 freezes it
    weight_decay: float = Field(1e-4, ge=0)
    clip_norm: float = Field(1.0, gt=0)
    warmup_steps: int = Field(100, ge=0)
    final_factor: float = Field(0.01, ge=0, le=1)  # of lr, at the end


class LossConfig(Section):
    """Beside the loss of the paper."""

    dense: float = Field(0.0, ge=0)  # weight of asking every position, worth it where nothing is pretrained


class PretrainConfig(Section):
    """First the image backbone alone, by naming objects cut out of the images: for one that starts from nothing."""

    part: float = Field(0.0, ge=0, lt=1)  # of the job
    lr: float = Field(2e-3, gt=0)
    crop_px: int = Field(48, ge=16)  # the side of a cut, in pixels of the resized image


class TrainConfig(Section):
    """How long, how much at once, and what is written when."""

    steps: int = Field(gt=0)
    max_seconds: float | None = Field(None, gt=0)  # the schedule ends here if that is before `steps`
    batch_size: int = Field(16, gt=0)  # images of a step, over all workers
    seed: int = Field(0, ge=0)
    dropout: bool = False  # the model's own dropout and stochastic depth
    log_steps: int = Field(20, gt=0)
    save_seconds: float = Field(240.0, gt=0)
    threads: int | None = Field(None, gt=0)  # of a CPU worker
    max_bad_steps: int = Field(20, gt=0)  # in a row without a finite loss and gradient, before the job stops
    loaders: int = Field(1, ge=0)  # processes that prepare batches for a worker; 0: the worker itself


class ValidationShapes(Section):
    """Drawn scenes of all combinations, those held out measured apart."""

    seed: int = Field(1, ge=0)
    images: int = Field(48, gt=0)
    natural: float = Field(0.0, ge=0, le=1)  # as in data.shapes


class ValidationConfig(Section):
    """What is measured while training, every so many steps and at the end; `steps: 0` measures nothing."""

    steps: int = Field(500, ge=0)
    shapes: ValidationShapes | None = None
    annotations: str | None = None  # COCO json
    images: str | None = None  # its images, as in data.images
    limit: int = Field(64, gt=0)  # the first so many images of it

    @model_validator(mode="after")
    def _one_source(self) -> ValidationConfig:
        if (self.annotations is None) != (self.images is None):
            raise ValueError("validation.annotations and validation.images go together")
        if self.shapes is not None and self.annotations is not None:
            raise ValueError("say one of validation.shapes and validation.annotations")
        return self


class TrainingRay(Section):
    """What the job takes from the Ray cluster."""

    workers: int = Field(1, ge=0)  # 0: this process, without Ray
    address: str | None = None  # as of a labeling run
    use_gpu: bool = False
    cpus_per_worker: float = Field(1.0, gt=0)
    start_timeout_s: float = Field(1800.0, gt=0)  # how long to wait for capacity before giving up


class TrainingJob(Section):
    """One training job, as its YAML file says."""

    output: str  # a folder or URL: checkpoint/, state.pt, log.jsonl
    model: StudentConfig
    data: DataConfig
    vocabulary: str | tuple[Any, ...] | dict[str, Any] | None = None  # None: the data's own; else matched by name
    partial: bool = False  # leave out what of the annotations cannot be trained on, instead of refusing the job
    prompts: TrainingPrompts = TrainingPrompts()
    loss: LossConfig = LossConfig()
    pretrain: PretrainConfig = PretrainConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    train: TrainConfig
    validation: ValidationConfig = ValidationConfig()
    ray: TrainingRay = TrainingRay()

    @model_validator(mode="after")
    def _divisible(self) -> TrainingJob:
        if self.train.batch_size % max(1, self.ray.workers):
            raise ValueError(
                f"train.batch_size={self.train.batch_size} must be a multiple of ray.workers={self.ray.workers}"
            )
        return self


def load_training_job(path: str | Path, overrides: Sequence[str] = ()) -> TrainingJob:
    """Read a YAML file and apply overrides. Raises Refused with all problems at once."""
    return make_training_job(read_yaml(Path(path)), overrides, where=str(path))


def make_training_job(
    values: Mapping[str, Any], overrides: Sequence[str] = (), *, where: str = "config"
) -> TrainingJob:
    """Validate plain values (as YAML gives them) plus overrides. Raises Refused with all problems at once."""
    return validate(TrainingJob, values, overrides, where=where)
