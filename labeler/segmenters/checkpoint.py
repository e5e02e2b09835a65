"""Find and check a checkpoint of the SAM family, as `labeler.checkpoints` does for detectors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from labeler.checkpoints import Checkpoint, digest_of, locate, model_config
from labeler.errors import Refused
from labeler.prompts.sam3.family import Sam3Family, side_of

# config.json's model_type -> class in transformers. The checkpoints of SAM 2, 2.1 and 3 are published with the parts
# that follow objects through a video; the class for images leaves those out.
FAMILIES = {
    "sam": "SamModel",
    "sam_hq": "SamHQModel",
    "sam2": "Sam2Model",
    "sam2_video": "Sam2Model",
    **Sam3Family.architectures,
}
DEFAULT_SIDE = 1024  # of the model's square input, where config.json does not say


@dataclass(frozen=True)
class SegmenterCheckpoint(Checkpoint):
    """A checkpoint of the SAM family; `side` is that of the model's square input, in pixels."""

    side: int

    @property
    def looks_for_phrases(self) -> bool:
        """Return whether it is asked for names (SAM 3), and not shown boxes."""
        return self.architecture == Sam3Family.architectures["sam3"]


def resolve_segmenter(name: str | Path, *, revision: str | None = None, weights: bool = True) -> SegmenterCheckpoint:
    """Fetch a checkpoint if it is not here yet, and check it.

    Args:
        name: a Hub ID, a local folder or a URL, as `checkpoints.locate` takes it.
        revision: branch, tag or commit, for Hub IDs only.
        weights: False fetches and checks only the settings.

    Raises:
        Refused: in one line, whatever is wrong with the name, the network, the permission or the files.
    """
    found = locate(name, revision=revision, weights=weights, section="masks")
    config = model_config(found)
    model_type = config.get("model_type")
    if model_type not in FAMILIES:
        raise Refused(
            f"masks.model: checkpoint {found.name} is of type {model_type or 'unknown'}; supported are "
            f"{', '.join(FAMILIES)}"
        )
    side = _side(config, found.name)
    digest = digest_of(found) if weights else ""
    return SegmenterCheckpoint(found.folder, found.name, found.revision, digest, FAMILIES[model_type], side)


def _side(config: Mapping[str, Any], name: str) -> int:
    """Return pixels of a side of the model's square input."""
    prompts = config.get("prompt_encoder_config")
    if config.get("model_type") in Sam3Family.architectures:
        side = side_of(config)
    else:
        side = prompts.get("image_size", DEFAULT_SIDE) if isinstance(prompts, Mapping) else DEFAULT_SIDE
    if not isinstance(side, int) or isinstance(side, bool) or side < 1:
        raise Refused(f"masks.model: checkpoint {name}: the image_size of its config is {side!r}, not a number")
    return side
