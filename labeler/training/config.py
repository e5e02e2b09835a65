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
    """The architecture: MM-Grounding-DINO (`mm`) or Grounding DINO (`original`)."""
    size: str | dict[str, Any] = "small"
    """`tiny`, `small`, `full`, or a mapping of the fields of a size, such as `d_model` and `layers`."""
    config: dict[str, Any] = Field(default_factory=dict)
    """Fields of the transformers config, e.g. `decoder_layers: 3`."""
    words: tuple[str, ...] = ()
    """The whole words of the tokenizer. By default, those of the training vocabulary."""
    vocab_file: str | None = None
    """A BERT vocab.txt to use instead of `words`."""


class StudentConfig(Section):
    """Where the weights come from: a checkpoint to continue from, or a new one."""

    name: str | None = None
    """The checkpoint to continue from: a Hub ID, a local folder or a URI."""
    revision: str | None = None
    """The Hub revision: a branch, tag or commit. By default, the main branch."""
    new: NewModel | None = None
    """A new checkpoint with random weights, instead of `name`."""
    image_size: tuple[int, int] | None = None
    """The shortest and the longest edge in pixels. By default, the checkpoint's own."""

    @model_validator(mode="after")
    def _one_of_two(self) -> StudentConfig:
        if (self.name is None) == (self.new is None):
            raise ValueError("say either model.name (a checkpoint to continue from) or model.new (from scratch)")
        return self


class ShapesData(Section):
    """Scenes drawn on the fly: endless, and no disk."""

    seed: int = Field(0, ge=0)
    """The seed of the scenes."""
    combinations: str | tuple[str, ...] = "seen"
    """Which combinations of color and shape are drawn: `all`, `seen`, `held_out`, or a list of names."""
    images: int | None = Field(None, gt=0)
    """Draw only this many scenes, and repeat them. By default, scenes do not repeat."""
    max_objects: int = Field(12, gt=0)
    """The most objects of a scene."""
    natural: float = Field(0.0, ge=0, le=1)
    """The share of scenes with a drawn background that resembles a photograph."""
    radii: tuple[float, float] = (0.07, 0.24)
    """The smallest and the largest radius of objects, as parts of the image's shorter side."""

    @model_serializer(mode="wrap")
    def _as_earlier_versions_wrote_it(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Omit what is new and not used: a folder of an earlier version can be resumed."""
        values: dict[str, Any] = write(self)
        for name in ("natural", "radii"):
            if getattr(self, name) == type(self).model_fields[name].default:
                values.pop(name, None)
        return values


class DataConfig(Section):
    """Images with boxes: synthetic scenes, a COCO file with its images, or a labeler run."""

    shapes: ShapesData | None = None
    """Train on synthetic scenes."""
    annotations: str | None = None
    """Train on a COCO JSON file; needs `images`."""
    images: str | None = None
    """The images of `annotations`: a folder of images or of WebDataset tars, or one tar."""
    run: str | None = None
    """Train on the labels of this run folder."""
    score_threshold: float = Field(0.3, ge=0, le=1)
    """Use only boxes of the run with at least this score."""
    reviewed_weight: int = Field(1, ge=1, le=1000)
    """How many times each completely reviewed image of the run occurs per epoch."""
    exclude: tuple[str, ...] = ()
    """Categories to hold out: their names are never asked for, and their boxes are dropped."""
    flip: float = Field(0.0, ge=0, le=1)
    """The probability that an image is mirrored."""
    bucket_px: int = Field(1, gt=0)
    """Round image sides to multiples of this many pixels, so that photographs share shapes."""

    @model_serializer(mode="wrap")
    def _as_before(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Without a weight of 1, so that a training that an earlier version started can be resumed."""
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
    """The categories that an image is asked for in one step."""

    min_categories: int = Field(4, gt=0)
    """The fewest categories that an image is asked for."""
    max_categories: int = Field(48, gt=0)
    """The most categories that an image is asked for."""
    max_tokens: int = Field(256, ge=8, le=256)
    """The most text tokens of a prompt."""
    drop: float = Field(0.1, ge=0, le=1)
    """The probability that a category of the image is not asked for."""
    share: Literal["image", "batch"] = "image"
    """`image` draws a prompt per image, `batch` one per batch."""


class OptimizerConfig(Section):
    """AdamW, warm-up, then half a cosine to zero."""

    lr: float = Field(1e-4, gt=0)
    """The peak learning rate."""
    backbone_factor: float = Field(1.0, ge=0)
    """The learning rate of the image backbone, as a part of `lr`. 0 freezes it."""
    text_factor: float = Field(1.0, ge=0)
    """The learning rate of the text encoder, as a part of `lr`. 0 freezes it."""
    weight_decay: float = Field(1e-4, ge=0)
    """The weight decay of AdamW."""
    clip_norm: float = Field(1.0, gt=0)
    """Clip gradients to this norm."""
    warmup_steps: int = Field(100, ge=0)
    """The number of steps over which the learning rate rises to `lr`."""
    final_factor: float = Field(0.01, ge=0, le=1)
    """The learning rate at the last step, as a part of `lr`."""


class LossConfig(Section):
    """Beside the loss of the paper."""

    dense: float = Field(0.0, ge=0)
    """The weight of a loss at every image position. Useful only if nothing is pretrained."""


class PretrainConfig(Section):
    """First the image backbone alone, by naming objects cut out of the images: for one that starts from nothing."""

    part: float = Field(0.0, ge=0, lt=1)
    """The part of the job that trains the image backbone alone."""
    lr: float = Field(2e-3, gt=0)
    """The peak learning rate of this part."""
    crop_px: int = Field(48, ge=16)
    """The side of a crop, in pixels of the resized image."""


class TrainConfig(Section):
    """Duration, batch size, and when what is written."""

    steps: int = Field(gt=0)
    """The number of optimizer steps."""
    max_seconds: float | None = Field(None, gt=0)
    """End the schedule after this many seconds if that is before `steps`."""
    batch_size: int = Field(16, gt=0)
    """The number of images per step, over all workers."""
    seed: int = Field(0, ge=0)
    """The seed of weights, data order and augmentation."""
    dropout: bool = False
    """Use the model's own dropout and stochastic depth."""
    log_steps: int = Field(20, gt=0)
    """Write a line to log.jsonl every this many steps."""
    save_seconds: float = Field(240.0, gt=0)
    """Save the state every this many seconds, to resume from."""
    threads: int | None = Field(None, gt=0)
    """The threads of a CPU worker. By default, torch's own number."""
    max_bad_steps: int = Field(20, gt=0)
    """Stop after this many consecutive steps without a finite loss and gradient."""
    loaders: int = Field(1, ge=0)
    """The number of processes that prepare batches for a worker. 0 means the worker itself."""


class ValidationShapes(Section):
    """Synthetic scenes of all combinations. Those held out are measured separately."""

    seed: int = Field(1, ge=0)
    """The seed of the scenes; use another than for training."""
    images: int = Field(48, gt=0)
    """The number of scenes."""
    natural: float = Field(0.0, ge=0, le=1)
    """The share of scenes with a background that resembles a photograph, as in `data.shapes`."""


class ValidationConfig(Section):
    """Measurements during training and at its end. `steps: 0` measures nothing."""

    steps: int = Field(500, ge=0)
    """Validate every this many steps and at the end. 0 turns validation off."""
    shapes: ValidationShapes | None = None
    """Validate on synthetic scenes."""
    annotations: str | None = None
    """Validate on a COCO JSON file; needs `images`."""
    images: str | None = None
    """The images of `annotations`, as in `data.images`."""
    limit: int = Field(64, gt=0)
    """Use only this many images of it, the first."""

    @model_validator(mode="after")
    def _one_source(self) -> ValidationConfig:
        if (self.annotations is None) != (self.images is None):
            raise ValueError("validation.annotations and validation.images go together")
        if self.shapes is not None and self.annotations is not None:
            raise ValueError("say one of validation.shapes and validation.annotations")
        return self


class TrainingRay(Section):
    """Resources that the job takes from the Ray cluster."""

    workers: int = Field(1, ge=0)
    """The number of training workers. 0 trains in this process, without Ray."""
    address: str | None = None
    """The Ray cluster, as `ray.address` of a labeling run."""
    use_gpu: bool = False
    """Give each worker a GPU."""
    cpus_per_worker: float = Field(1.0, gt=0)
    """The CPUs that Ray reserves per worker."""
    start_timeout_s: float = Field(1800.0, gt=0)
    """How many seconds to wait for the cluster to have room before the job gives up."""


class TrainingJob(Section):
    """One training job, as its YAML file says."""

    output: str
    """The folder or URI to write: checkpoint/, state.pt and log.jsonl."""
    model: StudentConfig
    """Where the weights come from."""
    data: DataConfig
    """What is trained on."""
    vocabulary: str | tuple[Any, ...] | dict[str, Any] | None = None
    """The categories to train on, as for a labeling run; data matches them by name. By default, the data's own."""
    partial: bool = False
    """Skip annotations that cannot be trained on instead of rejecting the job."""
    prompts: TrainingPrompts = TrainingPrompts()
    """The categories that an image is asked for in one step."""
    loss: LossConfig = LossConfig()
    """Losses beside those of the paper."""
    pretrain: PretrainConfig = PretrainConfig()
    """A first part of the job that trains the image backbone alone."""
    optimizer: OptimizerConfig = OptimizerConfig()
    """The optimizer and its schedule."""
    train: TrainConfig
    """How long to train, and what is written when."""
    validation: ValidationConfig = ValidationConfig()
    """What is measured during training."""
    ray: TrainingRay = TrainingRay()
    """Resources that the job takes from the Ray cluster."""

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
