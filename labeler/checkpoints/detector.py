"""Find and check a detector's checkpoint."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from labeler.checkpoints.contents import digest_of, image_processor_config, model_config
from labeler.checkpoints.files import TOKENIZER
from labeler.checkpoints.located import Located, locate
from labeler.errors import Refused

ARCHITECTURES = {
    "grounding-dino": "GroundingDinoForObjectDetection",
    "mm-grounding-dino": "MMGroundingDinoForObjectDetection",
}
DEFAULT_IMAGE_SIZE = (800, 1333)  # what both families were trained with; for checkpoints that do not say


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint that lies on this machine and passed the checks of `resolve`.

    Attributes:
        folder: where its files are, in transformers' layout.
        name: what the user called it, without secrets.
        revision: the hub's commit, or None for a folder or URL.
        digest: blake2b-128 (hex) over names and bytes of the files that determine outputs; "" without weights.
        architecture: the name of its class in transformers, for detectors one of `ARCHITECTURES`' values.
        image_size: (shortest edge, longest edge) in pixels, from the image processor's settings.
    """

    folder: Path
    name: str
    revision: str | None
    digest: str
    architecture: str
    image_size: tuple[int, int]


def resolve(name: str | Path, *, revision: str | None = None, weights: bool = True) -> Checkpoint:
    """Fetch a detector's checkpoint if it is not here yet, and check it.

    Args:
        name: as `locate` takes it.
        revision: branch, tag or commit, for hub names only.
        weights: False fetches and checks only config, tokenizer and image settings: enough to check a vocabulary.

    Raises:
        Refused: in one line, whatever is wrong with the name, the network, the permission or the files.
    """
    return _check(locate(name, revision=revision, weights=weights), weights)


def _check(found: Located, weights: bool) -> Checkpoint:
    architecture = _architecture(found)
    if not any((found.folder / file_name).is_file() for file_name in TOKENIZER[:2]):
        raise Refused(f"checkpoint {found.name} has no tokenizer: it needs a {TOKENIZER[0]} or a {TOKENIZER[1]}")
    image_size = _image_size(image_processor_config(found.folder), found.name)
    digest = digest_of(found) if weights else ""
    return Checkpoint(found.folder, found.name, found.revision, digest, architecture, image_size)


def _architecture(found: Located) -> str:
    config = model_config(found)
    named = config.get("architectures") or [ARCHITECTURES.get(str(config.get("model_type")))]
    if named[0] not in ARCHITECTURES.values():
        what = named[0] or config.get("model_type") or "unknown"
        raise Refused(f"checkpoint {found.name} is a {what}; supported are {' and '.join(ARCHITECTURES.values())}")
    return str(named[0])


def _image_size(config: dict[str, Any], name: str) -> tuple[int, int]:
    size = config.get("size")
    if size is None:
        return DEFAULT_IMAGE_SIZE
    if isinstance(size, int):  # the older form: size and max_size
        return size, int(config.get("max_size") or max(size, DEFAULT_IMAGE_SIZE[1]))
    try:
        return int(size["shortest_edge"]), int(size["longest_edge"])
    except (KeyError, TypeError, ValueError):
        raise Refused(
            f"checkpoint {name}: its image size is {size!r}; needed are a shortest_edge and a longest_edge in pixels"
        ) from None
