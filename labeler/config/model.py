"""Which detector labels, and what it is asked for."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import BeforeValidator, ConfigDict, Field, model_validator

from labeler.config.section import OF_FAMILY, OF_LABELER, FiniteJson, S3Config, Section


class ModelConfig(Section):
    """The detector, and how it computes."""

    name: str | None = None  # no default on purpose: see `Config.model_name`
    """The checkpoint: a Hugging Face Hub ID, a local folder or a URI. Required."""
    revision: str | None = None
    """The Hub revision: a branch, tag or commit. By default, the main branch."""
    family: str | None = None
    """A Python module with a detector of your own. By default, the checkpoint's `model_type` decides."""
    options: dict[str, FiniteJson] = Field(default_factory=dict)
    """Options that the module in `family` declares."""
    dtype: Annotated[Literal["auto", "float32", "float16", "bfloat16"], OF_LABELER] = "auto"
    """The precision of the forward pass. `auto` is float16 on a GPU and float32 on a CPU."""
    engine: Annotated[Literal["auto", "fast", "transformers"], OF_FAMILY] = "auto"
    """The implementation of the forward pass. `transformers` is the reference; `auto` uses `fast` if a check at startup
    finds it equal and, on a GPU, not slower."""
    device: str = "auto"
    """The torch device: `cpu`, `cuda`, `cuda:1`. `auto` is the GPU if there is one, else the CPU."""
    labels: Annotated[dict[str, str], OF_FAMILY] = Field(default_factory=dict)
    """Closed-set checkpoints: a mapping from the checkpoint's labels to names of the vocabulary. Other labels match by
    equal name or phrase."""
    s3: S3Config = S3Config()
    """Access to the bucket of a checkpoint on s3://."""


class NamesConfig(Section):
    """The source of the names that each image is asked for. A plain string is short for `{run: URI}`."""

    run: str | None = None
    """A run folder: each image is asked for the categories that this run found in it."""
    field: str | None = None
    """A sidecar or column with tags or a caption, named as in `input.keep`."""

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if (self.run is None) == (self.field is None):
            raise ValueError("name one source: a run, or {field: ...} for a sidecar or column")
        return self


def _as_run(value: object) -> object:
    return {"run": value} if isinstance(value, str) else value


class PromptsConfig(Section):
    """Settings for making prompts from the vocabulary."""

    model_config = ConfigDict(frozen=True, extra="forbid", serialize_by_alias=True, use_attribute_docstrings=True)

    protocol: Annotated[Literal["packed", "mmdet", "glip", "sentence"], OF_FAMILY] = "packed"
    """How Grounding DINO is asked. `packed` fills each chunk, `mmdet` puts 40 names into a chunk, `glip` lets each word
    see all others, and `sentence` runs one pass per phrase."""
    max_tokens: Annotated[int, OF_FAMILY] = Field(256, ge=8, le=256)
    """The most text tokens of one prompt chunk."""
    max_categories: Annotated[int | None, OF_FAMILY] = Field(None, gt=0)
    """The most categories of one prompt chunk. By default, the protocol decides."""
    templates: Annotated[tuple[str, ...] | None, OF_FAMILY] = None
    """OWL: texts such as `a photo of a {}`. The embedding of a name is the mean over them; by default, those of the
    published protocol."""
    source: Annotated[NamesConfig | None, BeforeValidator(_as_run, json_schema_input_type=NamesConfig | str | None)] = (
        Field(None, alias="from")
    )
    """Ask each image only for some names: a run folder or `{field: NAME}`. By default, for the whole vocabulary."""
    from_score: float | None = Field(None, ge=0, le=1)
    """With `from: RUN`: the score from which a category counts as found. By default, any stored box counts."""

    @model_validator(mode="after")
    def _score_of_a_run(self) -> Self:
        if self.from_score is not None and (self.source is None or self.source.run is None):
            raise ValueError("from_score is about the boxes of another run: set prompts.from to that run, too")
        return self
