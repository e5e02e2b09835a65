"""The configuration: frozen models, read from YAML plus `section.key=value` overrides; unknown keys are refused."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from labeler.byte_budget import MAX_PIXELS
from labeler.config_values import read_yaml, validate
from labeler.errors import Refused
from labeler.images.tiling import Tiling

RECOMMENDED_MODELS = (
    ("IDEA-Research/grounding-dino-tiny", "Apache-2.0"),
    ("IDEA-Research/grounding-dino-base", "Apache-2.0"),
    ("openmmlab-community/mm_grounding_dino_tiny_o365v1_goldg_v3det", "Apache-2.0"),
)


MOST_PAIRS = 32  # (image, chunk) pairs in one forward; no kernel was tried with more


# What a run's stored config may say that configs no longer can, by option.
_RETIRED = {"detect.jpeg_decoder": ("nvimgcodec",)}


# Marks on options, for `marked`: where else an option is read is said once, beside it.
ROWS = "decides rows: a field of a run's fingerprint"
OF_TILES = "decides rows of runs with tiles: a field of the fingerprint where detect.tile is set"
OF_FAMILY = "only some families of detectors have it; refused for others, but at its default"
OF_LABELER = (
    "labeler's own families all have it; refused, but at its default, for a user's module that does not name it"
)


class Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


def marked(section: BaseModel, mark: str) -> dict[str, Any]:
    """The options of a section that have a mark, by name, in the order of their declaration."""
    fields = type(section).model_fields
    return {name: getattr(section, name) for name, field in fields.items() if mark in field.metadata}


def _byte_count(value: object) -> object:
    """`64MiB`, `1GiB`, `500KB` -> bytes; numbers pass through."""
    units = {"kib": 2**10, "mib": 2**20, "gib": 2**30, "kb": 10**3, "mb": 10**6, "gb": 10**9, "b": 1}
    if isinstance(value, str):
        text = value.strip().lower().replace("_", "")
        for suffix, factor in units.items():
            if text.endswith(suffix):
                try:
                    return int(float(text.removesuffix(suffix)) * factor)
                except ValueError:
                    raise ValueError(f"{value!r} is no number of bytes; write for example 64MiB") from None
    return value


def _finite(value: object) -> object:
    """What JSON can hold: a run stores it."""
    try:
        json.dumps(value, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{value!r} cannot be stored as JSON: {error}") from None
    return value


FiniteJson = Annotated[Any, BeforeValidator(_finite)]
Bytes = Annotated[int, BeforeValidator(_byte_count), Field(gt=0)]


class S3Config(Section):
    """How a bucket of somebody else is read."""

    requester_pays: bool = False  # pay for requests and traffic, where the bucket's owner does not
    unsigned: bool = False  # send no credentials: for public buckets

    @model_validator(mode="after")
    def _pays_by_name(self) -> Self:
        if self.requester_pays and self.unsigned:
            raise ValueError("an unsigned request names nobody who pays; set requester_pays or unsigned, not both")
        return self


class InputConfig(Section):
    """Where the images are."""

    uri: str | tuple[str, ...]  # a folder, a glob, a brace pattern, one file, or a list of those
    # Tables of the objects below `uri`, read in the place of a listing: manifest.json of an S3 Inventory, or CSV or
    # Parquet files with the columns bucket and key.
    inventory: str | tuple[str, ...] | None = None
    format: Literal["webdataset", "images", "parquet"] | None = None  # None: by the file names
    keep: tuple[str, ...] = ()  # sidecar extensions or Parquet columns to carry into the labels
    limit: int | None = Field(None, gt=0)  # only the first so many images, in plan order
    exclude: tuple[str, ...] = ()  # runs whose forgotten images, and files whose images, are not labeled
    image_column: str | None = None  # Parquet: which column holds the image
    skip_without_images: bool = False  # Parquet: go on without files that have no image column
    images_per_shard: int = Field(2048, gt=0)  # folders of image files: how many make one shard
    s3: S3Config = S3Config()  # for the input's buckets, and those of addresses in a column


class OutputConfig(Section):
    """Where the run folder is."""

    uri: str
    single_writer: bool = False  # promise that no second job writes here; needed where storage cannot put-if-absent


class ModelConfig(Section):
    """Which detector, and how it computes. `name` has no default on purpose."""

    name: str | None = None
    revision: str | None = None
    family: str | None = None  # a Python module with a detector of your own; None: what the checkpoint is of
    options: dict[str, FiniteJson] = {}  # of such a module
    dtype: Annotated[Literal["auto", "float32", "float16", "bfloat16"], OF_LABELER] = "auto"
    # The last is the reference; their results are equal.
    engine: Annotated[Literal["auto", "fast", "transformers"], OF_FAMILY] = "auto"
    device: str = "auto"
    # Of a checkpoint with labels of its own: its label -> name of the category; others go by equal name or phrase.
    labels: Annotated[dict[str, str], OF_FAMILY] = Field(default_factory=dict)
    s3: S3Config = S3Config()  # for a checkpoint on s3://


class NamesConfig(Section):
    """Where the names come from that each image is asked for."""

    run: str | None = None  # a run folder: the categories that it found in the image
    field: str | None = None  # a sidecar or column with tags or a caption, named as in `input.keep`

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if (self.run is None) == (self.field is None):
            raise ValueError("name one source: a run, or {field: ...} for a sidecar or column")
        return self


def _as_run(value: object) -> object:
    return {"run": value} if isinstance(value, str) else value


class PromptsConfig(Section):
    """How the vocabulary becomes prompts."""

    model_config = ConfigDict(frozen=True, extra="forbid", serialize_by_alias=True)

    # mmdet: 40 names per chunk in their order; glip: the same, but every word sees all others; sentence: one phrase per
    # pass.
    protocol: Annotated[Literal["packed", "mmdet", "glip", "sentence"], OF_FAMILY] = "packed"
    max_tokens: Annotated[int, OF_FAMILY] = Field(256, ge=8, le=256)
    max_categories: Annotated[int | None, OF_FAMILY] = Field(None, gt=0)
    # "a photo of a {}", ...: a name's embedding is the mean over them. None: those of the published protocol.
    templates: Annotated[tuple[str, ...] | None, OF_FAMILY] = None
    # Ask each image for some of the names alone. None: for all.
    source: Annotated[NamesConfig | None, BeforeValidator(_as_run)] = Field(None, alias="from")
    # A category of the other run counts as found in an image from this score on. None: with any box that it stored.
    from_score: float | None = Field(None, ge=0, le=1)

    @model_validator(mode="after")
    def _score_of_a_run(self) -> Self:
        if self.from_score is not None and (self.source is None or self.source.run is None):
            raise ValueError("from_score is about the boxes of another run: set prompts.from to that run, too")
        return self


class ImageSize(Section):
    """Resize so that the shortest edge is `shortest_edge`, unless the longest would exceed `longest_edge` pixels."""

    shortest_edge: int = Field(gt=15)
    longest_edge: int = Field(gt=15)

    @property
    def edges(self) -> tuple[int, int]:
        """(shortest, longest) in pixels."""
        return self.shortest_edge, self.longest_edge


class DetectConfig(Section):
    """How detections are decoded, merged and stored."""

    score_floor: Annotated[float | None, ROWS] = Field(None, ge=0, le=1)  # None: the family's, of Grounding DINO 0.05
    max_detections: Annotated[int, ROWS] = Field(300, ge=0)  # 0: no cap
    score: Annotated[Literal["mean", "max"], ROWS, OF_FAMILY] = "mean"  # over the tokens of a phrase
    assignment: Annotated[Literal["argmax", "flattened"], ROWS, OF_LABELER] = "argmax"
    nms_iou: Annotated[float, ROWS] = Field(0.7, gt=0, le=1)  # within a category, across chunks
    image_size: ImageSize | None = None  # None: the checkpoint's own
    resize: Annotated[Literal["pillow", "torch"], OF_LABELER] = "pillow"  # torch: faster, up to one level of 255 off
    # Decode large JPEGs at 1/2, 1/4 or 1/8 where the detector needs no more; not bit-equal.
    jpeg_draft: Annotated[bool, OF_LABELER] = False
    # auto: simplejpeg where it is installed and gives Pillow's pixels; no row depends on it.
    jpeg_decoder: Literal["auto", "pillow"] = "auto"
    max_pixels: Annotated[int, ROWS] = Field(MAX_PIXELS, gt=0)  # larger images become rows with status too_large
    # For small objects: large images are looked at in square tiles, too. Pixels of a tile's side; None: no tiles.
    tile: Annotated[int | None, OF_TILES] = Field(None, ge=64)
    tile_overlap: Annotated[float, OF_TILES] = Field(0.2, ge=0, le=0.9)  # of neighbors at least, as a part of `tile`
    tile_min_side: Annotated[int | None, OF_TILES] = None  # images with a longer side are tiled; None: than `tile`
    max_tiles: Annotated[int, OF_TILES] = Field(1000, gt=1, le=10_000)  # images with more get status too_large
    # (image, chunk) pairs in one forward, at most MOST_PAIRS; None: by device.
    pairs_per_batch: Annotated[int | None, OF_LABELER] = Field(None, gt=0)
    # Record shapes that come often, and replay them; auto: where a trial at the start finds that faster. Off until a
    # GPU has shown it: what a recording does to a driver, a restarted worker would do again.
    cuda_graphs: Annotated[Literal["auto", True, False], OF_FAMILY] = False
    stall_timeout_s: float = Field(900.0, gt=0)  # a worker that decodes and detects nothing for so long is replaced
    images_per_batch: int | None = Field(None, gt=0)  # images handed to the detector at once; None: by device

    def floor(self, of_family: float) -> float:
        """The score floor, of which the family's is the default."""
        return of_family if self.score_floor is None else self.score_floor

    @model_validator(mode="after")
    def _tiles_as_a_whole(self) -> Self:
        fields = type(self).model_fields
        changed = [name for name, value in marked(self, OF_TILES).items() if value != fields[name].default]
        if self.tile is None and changed:
            raise ValueError(f"{', '.join(changed)}: only for runs with tiles; set detect.tile, or leave it out")
        if self.tile and self.tile_min_side is not None and self.tile_min_side < self.tile:
            raise ValueError(f"tile_min_side {self.tile_min_side} is less than tile {self.tile}: one tile is no gain")
        return self

    @property
    def tiling(self) -> Tiling | None:
        """Which images are tiled, and how; None where none are."""
        if self.tile is None:
            return None
        return Tiling(self.tile, self.tile_overlap, self.tile_min_side or self.tile, self.max_tiles)


class MasksConfig(Section):
    """A mask for each of an image's best boxes, by a model of the SAM family. Without this section there are none."""

    model: str  # a SAM, SAM-HQ, SAM 2, 2.1 or 3 checkpoint: a hub name, a folder or a URL
    revision: str | None = None
    threshold: float = Field(0.25, ge=0, le=1)  # only detections with at least this score get one
    max_masks: int = Field(100, ge=0)  # of an image, the best; 0: no cap
    boxes_per_batch: int | None = Field(None, gt=0)  # boxes in one forward; None: by device
    s3: S3Config = S3Config()  # for a checkpoint on s3://


def _with_a_place(templates: tuple[str, ...] | None) -> tuple[str, ...] | None:
    """Templates as they are; ValueError unless the name has one place in each."""
    if templates is not None and (not templates or any(template.count("{}") != 1 for template in templates)):
        raise ValueError("give one or more texts with {} once in each, where the name goes")
    return templates


class RescoreConfig(Section):
    """A second score for each box of a complete run, by CLIP or SigLIP: what `labeler rescore` does."""

    model: str  # a CLIP, SigLIP or SigLIP 2 (fixed resolution) checkpoint: a hub name, a folder or a URL
    revision: str | None = None
    margin: float = Field(0.1, ge=0, le=2)  # part of a box's width and height that the crop has more on each side
    # "a photo of a {}", ...: a name's embedding is the mean over them. None: that one alone.
    templates: Annotated[tuple[str, ...] | None, AfterValidator(_with_a_place)] = None
    background: tuple[str, ...] | None = None  # CLIP: what competes and is no category. None: "background"
    boxes_per_batch: int | None = Field(None, gt=0)  # crops in one forward; None: by device
    s3: S3Config = S3Config()  # for a checkpoint on s3://


class UnitConfig(Section):
    """How much is committed at once."""

    max_images: int | None = Field(None, gt=0)  # None: what takes 20 s at 40 passes a second, but at most 256
    max_bytes: Bytes = 64 * 2**20
    max_image_bytes: Bytes = 256 * 2**20  # a larger file becomes a row with status read_error

    @property
    def images(self) -> int:
        """The most images of a unit, in the configuration of a job: its plan decides what was left open."""
        assert self.max_images is not None, "resolve_job says it"
        return self.max_images


_LABEL_CONDITION = re.compile(r"!?(in\(\s*[\w.-]+(\s*,\s*[\w.-]+)*\s*\)|\w([\w.-]*\w)?)")


def _as_label_selector(value: dict[str, str]) -> dict[str, str]:
    for name, condition in value.items():
        if not name or not _LABEL_CONDITION.fullmatch(condition):
            raise ValueError(f"{name}: {condition!r} is no condition of Ray; give VALUE, !VALUE, in(A, B) or !in(A, B)")
    return value


LabelSelector = Annotated[dict[str, str], AfterValidator(_as_label_selector)]


class RayConfig(Section):
    """What the run takes from the Ray cluster."""

    address: str | None = None  # HOST:PORT, auto (one on this machine) or local; None: RAY_ADDRESS, else local
    workers: int | None = Field(None, gt=0)  # detector actors; None: one for each GPU (or one for the node's CPUs)
    max_workers: int | None = Field(None, gt=0)  # no more of them, however many GPUs the cluster has or gets
    gpus_per_worker: float | None = Field(None, ge=0)  # None: 1 where the cluster has GPUs, else 0
    cpus_per_worker: float | None = Field(None, gt=0)  # reserved, and its threads; None: those of its node, shared
    accelerator_type: str | None = None  # the only kind of GPU that workers use, in Ray's words: L4, A100-80G
    label_selector: LabelSelector = Field(default_factory=dict)  # only nodes with these labels get workers
    read_label_selector: LabelSelector = Field(default_factory=dict)  # and only such nodes read for them
    read_cpus: float = Field(0.25, gt=0)
    read_tasks: int | None = Field(None, gt=0)  # shards read at once; None: two a worker, eight where nodes may join
    wave_units: int = Field(1_000_000, gt=0)  # bound on one Dataset's blocks: the driver takes about 1 kB for each
    start_timeout_s: float = Field(1800.0, gt=0)  # how long to wait for capacity before giving up
    seed: int | None = None  # order in which shards are worked; None: another in each job, so that two share the work


def _as_uri(value: object) -> object:
    return {"uri": value} if isinstance(value, str | list | tuple) else value


class Config(Section):
    """One labeling run, as its YAML file says."""

    input: Annotated[InputConfig, BeforeValidator(_as_uri)]
    output: Annotated[OutputConfig, BeforeValidator(_as_uri)]
    vocabulary: str | tuple[Any, ...] | dict[str, Any]  # a name, a path, a list, or a mapping, as Vocabulary.load takes
    model: ModelConfig = ModelConfig()
    prompts: PromptsConfig = PromptsConfig()
    detect: DetectConfig = DetectConfig()
    masks: MasksConfig | None = None
    rescore: RescoreConfig | None = None
    unit: UnitConfig = UnitConfig()
    ray: RayConfig = RayConfig()

    @property
    def input_uris(self) -> tuple[str, ...]:
        return (self.input.uri,) if isinstance(self.input.uri, str) else self.input.uri

    @property
    def inventory_uris(self) -> tuple[str, ...]:
        inventory = self.input.inventory
        return (inventory,) if isinstance(inventory, str) else inventory or ()

    @property
    def read_keep(self) -> tuple[str, ...]:
        """Sidecars and columns that are read with the images: those to keep, and the one that names come from."""
        field = self.prompts.source and self.prompts.source.field
        return self.input.keep if not field or field in self.input.keep else (*self.input.keep, field)

    @property
    def model_name(self) -> str:
        """The checkpoint; Refused when none is named."""
        if self.model.name is None:
            known = "; ".join(f"{name} ({licence})" for name, licence in RECOMMENDED_MODELS)
            raise Refused(f"model.name is missing: name a Grounding DINO checkpoint, for example {known}")
        return self.model.name


def changed(config: Config, mark: str) -> dict[str, Any]:
    """The options that have a mark and are not at their defaults, as "section.key"."""
    sections: dict[str, BaseModel] = {"detect": config.detect, "model": config.model, "prompts": config.prompts}
    return {
        f"{section}.{name}": value
        for section, values in sections.items()
        for name, value in marked(values, mark).items()
        if value != type(values).model_fields[name].get_default(call_default_factory=True, validated_data={})
    }


def of_families(config: Config) -> dict[str, Any]:
    """The options that only some families of detectors have, as "section.key", where they are not at their defaults."""
    own = {f"model.options.{name}": value for name, value in config.model.options.items()}
    return changed(config, OF_FAMILY) | own


def load_config(path: str | Path, overrides: Sequence[str] = ()) -> Config:
    """Read a YAML config file and apply `section.key=value` overrides (values are YAML too).

    Raises:
        Refused: the file is missing or no YAML mapping, a key is unknown, a value is wrong; all problems at once.
    """
    return make_config(read_yaml(Path(path)), overrides, where=str(path))


def make_config(values: Mapping[str, Any], overrides: Sequence[str] = (), *, where: str = "config") -> Config:
    """Validate plain values (as YAML gives them) plus overrides; raises Refused with all problems at once."""
    return validate(Config, values, overrides, where=where)


def config_of_run(values: Mapping[str, Any], overrides: Sequence[str] = (), *, where: str) -> Config:
    """The config that a run stored, perhaps by an older labeler; raises Refused as `make_config`, and by name for what
    this version cannot do any more."""
    gone = []
    for key, retired in _RETIRED.items():
        section, _, name = key.partition(".")
        value = values.get(section, {}).get(name)
        if value in retired:
            gone.append(f"{key}={value} was retired")
    if gone:
        raise Refused(f"{where} cannot be followed by this labeler: {'; '.join(gone)}")
    return make_config(copy.deepcopy(dict(values)), overrides, where=where)
