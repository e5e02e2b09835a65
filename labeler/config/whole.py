"""The whole configuration of a labeling run."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator

from labeler.config.detection import DetectConfig
from labeler.config.execution import RayConfig, UnitConfig
from labeler.config.model import ModelConfig, PromptsConfig
from labeler.config.places import InputConfig, OutputConfig
from labeler.config.second_models import MasksConfig, RescoreConfig
from labeler.config.section import OF_FAMILY, Section, marked
from labeler.errors import Refused

RECOMMENDED_MODELS = (
    ("IDEA-Research/grounding-dino-tiny", "Apache-2.0"),
    ("IDEA-Research/grounding-dino-base", "Apache-2.0"),
    ("openmmlab-community/mm_grounding_dino_tiny_o365v1_goldg_v3det", "Apache-2.0"),
)


MOST_PAIRS = 32  # (image, chunk) pairs in one forward pass; no kernel was tried with more


def _as_uri(value: object) -> object:
    return {"uri": value} if isinstance(value, str | list | tuple) else value


class Config(Section):
    """One labeling run, as its YAML file says."""

    input: Annotated[InputConfig, BeforeValidator(_as_uri, json_schema_input_type=InputConfig | str | tuple[str, ...])]
    """Where the images are."""
    output: Annotated[OutputConfig, BeforeValidator(_as_uri, json_schema_input_type=OutputConfig | str)]
    """Where the run folder is."""
    vocabulary: str | tuple[Any, ...] | dict[str, Any]
    """The names to look for: `coco`, `lvis_v1` or `objects365_v1`, a file, a list of names, a mapping, or `from_model`
    for the labels of a closed-set checkpoint."""
    model: ModelConfig = ModelConfig()
    """Which detector, and how it computes."""
    prompts: PromptsConfig = PromptsConfig()
    """How the vocabulary becomes prompts."""
    detect: DetectConfig = DetectConfig()
    """How detections are decoded, merged and stored."""
    masks: MasksConfig | None = None
    """Masks for the best boxes. By default, none."""
    rescore: RescoreConfig | None = None
    """A second score per box, for `labeler rescore`. By default, none."""
    unit: UnitConfig = UnitConfig()
    """The size of a work unit."""
    ray: RayConfig = RayConfig()
    """What the run takes from the Ray cluster."""

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
