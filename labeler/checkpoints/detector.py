"""Find and check a detector's checkpoint."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from labeler.checkpoints.contents import Checkpoint, digest_of, image_processor_config, model_config
from labeler.checkpoints.located import Located, locate
from labeler.errors import Refused
from labeler.prompts import Family, ImageRule, find_family


@dataclass(frozen=True)
class DetectorCheckpoint(Checkpoint):
    """A detector's checkpoint that passed the checks of `resolve`.

    Attributes:
        family: the kind of detector it is of.
        rule: how it wants its images, from the image processor's settings.
    """

    family: Family
    rule: ImageRule


def resolve(name: str | Path, *, revision: str | None = None, weights: bool = True) -> DetectorCheckpoint:
    """Fetch a detector's checkpoint if it is not here yet, and check it.

    Args:
        name: as `locate` takes it.
        revision: branch, tag or commit, for hub names only.
        weights: False fetches and checks only config, tokenizer and image settings: enough to check a vocabulary.

    Raises:
        Refused: in one line, whatever is wrong with the name, the network, the permission or the files.
    """
    return _check(locate(name, revision=revision, weights=weights), weights)


def _check(found: Located, weights: bool) -> DetectorCheckpoint:
    config = model_config(found)
    family, architecture = find_family(config, found.name)
    files = family.text_files
    if files and not any((found.folder / file_name).is_file() for file_name in files):
        raise Refused(f"checkpoint {found.name} has no tokenizer: it needs a {' or a '.join(files)}")
    rule = family.image_rule(image_processor_config(found.folder), config, found.name)
    digest = digest_of(found) if weights else ""
    return DetectorCheckpoint(found.folder, found.name, found.revision, digest, architecture, family, rule)
