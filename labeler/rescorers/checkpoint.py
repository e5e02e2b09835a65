"""Find and check a CLIP or SigLIP checkpoint, as `labeler.checkpoints` does for detectors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from labeler.checkpoints import Checkpoint, digest_of, locate, model_config
from labeler.errors import Refused
from labeler.segmenters.checkpoint import FAMILIES as SEGMENTERS

# config.json's model_type -> class in transformers. SigLIP 2 with a fixed resolution is published as "siglip".
CLIP, SIGLIP = "CLIPModel", "SiglipModel"
FAMILIES = {"clip": CLIP, "siglip": SIGLIP}
_DEFAULT_SIDE = 224  # both, where config.json does not say
_DEFAULT_TOKENS = {CLIP: 77, SIGLIP: 64}


@dataclass(frozen=True)
class RescorerCheckpoint(Checkpoint):
    """A CLIP or SigLIP checkpoint.

    Attributes:
        side: of the model's square input, in pixels.
        max_tokens: that its text encoder reads.
        text_config: the section of config.json.
    """

    side: int
    max_tokens: int
    text_config: Mapping[str, Any]

    @property
    def compares(self) -> bool:
        """Return whether categories compete for a box (CLIP), or each is scored for itself (SigLIP)."""
        return self.architecture == CLIP


def resolve_rescorer(name: str | Path, *, revision: str | None = None, weights: bool = True) -> RescorerCheckpoint:
    """Fetch a checkpoint if it is not here yet, and check it.

    Args:
        name: a Hub ID, a local folder or a URL, as `checkpoints.locate` takes it.
        revision: branch, tag or commit, for Hub IDs only.
        weights: False fetches and checks only the settings.

    Raises:
        Refused: in one line, if the name, the network, the permission or the files are not usable.
    """
    found = locate(name, revision=revision, weights=weights, section="rescore")
    config = model_config(found)
    model_type = config.get("model_type")
    if model_type not in FAMILIES:
        raise Refused(f"rescore.model: checkpoint {found.name} is of type {model_type or 'unknown'}{_hint(model_type)}")
    architecture = FAMILIES[model_type]
    text, vision = (_section(config, part, found.name) for part in ("text_config", "vision_config"))
    return RescorerCheckpoint(
        found.folder,
        found.name,
        found.revision,
        digest_of(found) if weights else "",
        architecture,
        side=_number(vision, "image_size", _DEFAULT_SIDE, found.name),
        max_tokens=_number(text, "max_position_embeddings", _DEFAULT_TOKENS[architecture], found.name),
        text_config=text,
    )


def _hint(model_type: Any) -> str:
    if model_type == "siglip2":
        return ", SigLIP 2 with variable resolution (NaFlex); take one of its checkpoints with a fixed resolution"
    if model_type in SEGMENTERS:
        return ", which makes masks and no scores; name it for `labeler mask`, and a CLIP or SigLIP here"
    return f"; supported are {', '.join(FAMILIES)}"


def _section(config: Mapping[str, Any], part: str, name: str) -> Mapping[str, Any]:
    section = config.get(part) or {}
    if not isinstance(section, Mapping):
        raise Refused(f"rescore.model: checkpoint {name}: {part} in its config.json is {section!r}, not settings")
    return section


def _number(section: Mapping[str, Any], key: str, default: int, name: str) -> int:
    found = section.get(key, default)
    if not isinstance(found, int) or isinstance(found, bool) or found < 3:
        raise Refused(f"rescore.model: checkpoint {name}: {key} in its config.json is {found!r}")
    return found
